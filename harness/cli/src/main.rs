//! The binary `stickler`.

fn main() {}
