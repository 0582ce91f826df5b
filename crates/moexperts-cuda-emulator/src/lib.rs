//! Runs the CUDA kernels of moexperts on the host, for tests.
