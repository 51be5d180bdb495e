//! The daemon: stores, network, worker, working folder, service, control API.
