// The modules of kernels: a module is compiled from its files, in this order, and has the name of the last.
// Included by kernels.rs and by the build script of moexperts-cuda-emulator, each with a macro `modules!`.
modules! {
    ELEMENTWISE = ["elementwise.cu"];
    ROWS = ["rows.cu"];
    NORM = ["norm.cu"];
    ROPE = ["rope.cu"];
    ROUTE = ["route.cu"];
    ATTENTION = ["attention.cu"];
    LIMITS = ["limits.cu"];
    GEMV = ["grouped.cuh", "gemv.cu"];
    SCHEDULE = ["schedule.cu"];
    SIMT = ["grouped.cuh", "tiles.cuh", "simt.cu"];
    TILES = ["grouped.cuh", "tiles.cuh", "tiles.cu"];
    HOPPER = ["grouped.cuh", "hopper.cu"], hopper = true;
}
