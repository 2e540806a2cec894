//! Wires a guest into a pod network namespace.
