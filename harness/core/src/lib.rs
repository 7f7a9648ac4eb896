//! Clusters, vantages, checks and histories: the conformance and chaos harness for Kubernetes Services.
