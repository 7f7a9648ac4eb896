//! The embedded cluster: a topology of nodes and swappable components.
