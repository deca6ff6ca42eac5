#pragma once
#include <cstddef>

// Counts and fails allocations of the whole program, on every thread. allocation_counter.cpp replaces malloc, calloc,
// realloc, aligned_alloc, posix_memalign, memalign and operator new (under AddressSanitizer operator new only); a test
// program gets it through one file *_tu_allocations.cpp that includes it.

namespace peft_test {

/// Allocations of the program so far.
std::size_t allocations() noexcept;

/// Blocks from operator new that have not been deleted.
std::size_t live_blocks() noexcept;

/// Counts the allocations since it was made.
class AllocationCount {
public:
    AllocationCount() noexcept : start_(allocations()) {}
    std::size_t so_far() const noexcept { return allocations() - start_; }

private:
    std::size_t start_;
};

/// While it lives, call number `k` (from 1) of operator new throws bad_alloc, and each later one too if `for_good`.
/// malloc is left alone: what fails there (the thread library) aborts.
class AllocationFailure {
public:
    AllocationFailure(std::size_t k, bool for_good) noexcept;
    AllocationFailure(const AllocationFailure&) = delete;
    AllocationFailure& operator=(const AllocationFailure&) = delete;
    ~AllocationFailure();
    /// True if the call has been reached.
    bool happened() const noexcept;
};

}  // namespace peft_test
