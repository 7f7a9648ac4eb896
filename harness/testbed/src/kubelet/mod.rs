//! A kubelet: runs the pods that are bound to its node as processes, and says how they are.

mod container;
mod image;
mod init;
mod log;
mod sandbox;
mod spawn;

pub use container::{Container, ContainerSpec, ExecSpec, Runtime, Session, Terminal};
pub use init::{StartFailure, init_main};
pub use log::{Line, Log};
pub use sandbox::Sandbox;
pub use spawn::{Child, Children, Exit};
