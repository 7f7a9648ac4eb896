//! The promises of Kubernetes Services, one check each.
