//! What kind of executable a file is.

use anyhow::{Context as _, bail};
use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use object::{Endianness, elf};

/// An architecture images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Architecture {
    Amd64,
    Arm64,
}

impl Architecture {
    /// What rustc's targets begin with.
    pub(crate) fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// What images call it.
    pub(crate) fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A Linux executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) architecture: Architecture,
    /// The dynamic loader it asks for; none if it is static.
    pub(crate) interpreter: Option<String>,
}

impl Executable {
    /// Its architecture.
    ///
    /// # Errors
    /// If it asks for a dynamic loader, which an image that holds nothing else does not have.
    pub(crate) fn insist_on_static(self) -> anyhow::Result<Architecture> {
        match self.interpreter {
            None => Ok(self.architecture),
            Some(interpreter) => bail!(
                "it is not static: it asks for `{interpreter}`; build it for a musl target, or with RUSTFLAGS='-C \
                 target-feature=+crt-static' and `--target`"
            ),
        }
    }
}

/// Reads what an executable says about itself.
///
/// # Errors
/// If it is no executable for Linux on an architecture that images are made for.
pub(crate) fn examine(content: &[u8]) -> anyhow::Result<Executable> {
    let header = FileHeader64::<Endianness>::parse(content).context("it is no 64-bit ELF executable")?;
    let endian = header.endian().context("its byte order is unknown")?;
    let architecture = match header.e_machine(endian) {
        EM_X86_64 => Architecture::Amd64,
        EM_AARCH64 => Architecture::Arm64,
        machine => bail!("it is for a machine (number {machine}) that images are not made for"),
    };
    if !matches!(header.e_type(endian), elf::ET_EXEC | elf::ET_DYN) {
        bail!("it is a part of a program, and no executable");
    }
    let segments = header.program_headers(endian, content).context("its segments cannot be read")?;
    let mut interpreter = None;
    for segment in segments.iter().filter(|segment| segment.p_type(endian) == PT_INTERP) {
        let data = segment.data(endian, content).ok().context("its interpreter cannot be read")?;
        interpreter = Some(String::from_utf8_lossy(data).trim_end_matches('\0').to_owned());
    }
    Ok(Executable { architecture, interpreter })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest thing that is a static executable to who reads it; nobody runs it.
    pub(crate) fn executable(machine: u16, interpreter: Option<&str>) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let segments = u16::from(interpreter.is_some());
        file.extend(2_u16.to_le_bytes());
        file.extend(machine.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        // Entry, program headers, section headers.
        for offset in [0_u64, 64, 0] {
            file.extend(offset.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, segments, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        if let Some(interpreter) = interpreter {
            let length = interpreter.len() as u64 + 1;
            file.extend(3_u32.to_le_bytes());
            file.extend(4_u32.to_le_bytes());
            for field in [120_u64, 0, 0, length, length, 1] {
                file.extend(field.to_le_bytes());
            }
            file.extend(interpreter.as_bytes());
            file.push(0);
        }
        file
    }

    #[test]
    fn what_is_static_and_for_what_is_read() {
        let examine = |machine, interpreter| examine(&executable(machine, interpreter)).expect("an ELF file");
        assert_eq!(examine(62, None).insist_on_static().expect("static"), Architecture::Amd64);
        assert_eq!(examine(183, None).insist_on_static().expect("static"), Architecture::Arm64);
        let error = examine(62, Some("/lib64/ld-linux-x86-64.so.2")).insist_on_static().expect_err("dynamic");
        assert!(error.to_string().contains("/lib64/ld-linux-x86-64.so.2"), "{error}");
    }

    #[test]
    fn what_is_no_executable_for_images_is_refused() {
        assert!(examine(b"#!/bin/sh\n").is_err());
        assert!(examine(&executable(40, None)).is_err());
        let own = std::fs::read(std::env::current_exe().expect("this test")).expect("it can be read");
        assert!(examine(&own).is_ok());
    }
}
