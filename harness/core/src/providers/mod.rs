//! Providers: the ways to get a cluster.
