//! The control plane: services, HTTP API, and gRPC for runners.
