// What the emulator has to run, and mistakes that it has to find.

struct BasicsParams {
    const u32* from;
    u32* to;
    u32 count;
    u32 mistake;  // whether the kernel makes the one it is about
};

// Each block turns 256 values around, through shared memory.
KERNEL(turn_around, BasicsParams, 256) {
    DYNAMIC_SHARED(shared);
    u32* values = (u32*)shared;
    u32 first = blockIdx.x * 256;
    values[threadIdx.x] = p.from[first + threadIdx.x];
    if (!p.mistake) __syncthreads();
    p.to[first + threadIdx.x] = values[255 - threadIdx.x];
}

// Each warp turns 32 values around, through other lanes.
KERNEL(turn_warps_around, BasicsParams, 64) {
    u32 at = blockIdx.x * 64 + threadIdx.x;
    u32 value = p.from[at];
    p.to[at] = __shfl_sync(ALL_LANES, value, WARP - 1 - threadIdx.x % WARP);
}

// Sums, votes and places among equals, of each warp's values.
KERNEL(ask_warps, BasicsParams, 64) {
    u32 value = p.from[threadIdx.x], lane = threadIdx.x % WARP;
    u32* to = p.to + threadIdx.x * 4;
    to[0] = (u32)warp_sum((float)value);
    to[1] = __ballot_sync(ALL_LANES, value % 2);
    to[2] = __popc(__match_any_sync(ALL_LANES, value % 4) & ((1u << lane) - 1));
    to[3] = lane < 16 ? __shfl_up_sync(0xffff, value, 1) : __shfl_down_sync(0xffff0000, value, 1);
}

KERNEL(copy_behind, BasicsParams, 64) {
    DYNAMIC_SHARED(shared);
    u32 own = threadIdx.x * 16;
    // The last piece in part.
    u32 bytes = threadIdx.x == 63 ? 4 : 16;
    cp_async_16_part(shared_address(shared + own), (const u8*)p.from + own, bytes);
    cp_async_commit();
    if (!p.mistake) cp_async_wait<0>();
    __syncthreads();
    for (u32 i = 0; i < 4; ++i) p.to[threadIdx.x * 4 + i] = ((u32*)shared)[threadIdx.x * 4 + i];
}

// Every second thread does not come to where the others wait.
KERNEL(lock_up, BasicsParams, 64) {
    if (threadIdx.x % 2) __syncwarp(0x55555555 << 1);
    else __syncwarp();
    __syncthreads();
}

KERNEL(wait_apart, BasicsParams, 64) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

// Threads that have returned are not waited for.
KERNEL(return_early, BasicsParams, 64) {
    if (threadIdx.x >= p.count) return;
    __syncthreads();
    p.to[threadIdx.x] = threadIdx.x;
}

KERNEL(write_beyond, BasicsParams, 64) {
    p.to[threadIdx.x + p.mistake] = threadIdx.x;
}

KERNEL(write_beyond_shared, BasicsParams, 64) {
    DYNAMIC_SHARED(shared);
    ((u32*)shared)[threadIdx.x + p.mistake] = threadIdx.x;
}

KERNEL(write_nowhere, BasicsParams, 64) {
    if (threadIdx.x == 5) *(volatile u32*)(u64)(p.mistake ? 16 : (u64)p.to) = 1;
}

KERNEL(misaligned, BasicsParams, 64) {
    *(u64*)(p.to + p.mistake) = 1;
}

KERNEL(count_threads, BasicsParams, 96) { atomicAdd(p.to, 1); }

KERNEL(nothing, BasicsParams, 256) {}
