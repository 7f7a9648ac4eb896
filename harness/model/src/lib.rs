//! The reference semantics of Kubernetes Services: objects in, promises out.
