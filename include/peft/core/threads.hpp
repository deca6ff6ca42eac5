#pragma once
#include <peft/core/error.hpp>
#include <peft/core/function_ref.hpp>

#include <atomic>
#include <cstddef>
#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#endif

PEFT_BEGIN

namespace detail {
/// 0: as many as OpenMP would take. One of the three pieces of mutable process state.
inline std::atomic<int>& thread_limit() noexcept {
    static std::atomic<int> limit{0};
    return limit;
}
}  // namespace detail

/// How many threads a call of the library may use; 0 (the start value) leaves it to OpenMP. Results do not depend on it.
/// Throws OptionError when negative.
inline void set_threads(int count) {
    if (count < 0) throw OptionError("a thread count cannot be negative", {.subject = "set_threads", .found = std::to_string(count)});
    detail::thread_limit().store(count, std::memory_order_relaxed);
}

/// The number of threads a large call would use now: 1 without OpenMP, and inside a parallel region.
inline int threads() noexcept {
#if defined(_OPENMP)
    if (omp_in_parallel() != 0) return 1;
    const int limit = detail::thread_limit().load(std::memory_order_relaxed);
    return limit > 0 ? limit : omp_get_max_threads();
#else
    return 1;
#endif
}

PEFT_END

PEFT_ISA_BEGIN

/// Calls f(0), ..., f(count - 1), each once, on up to threads() threads when `parallel`. f must not depend on the order;
/// what it computes may not depend on the number of threads. When calls throw, one of the exceptions comes out at the end.
/// f calls leaf entries and is itself free of arithmetic: OpenMP outlines it without the target attribute of a kernel entry.
/// No template: each of the many loops of the library would otherwise bring a parallel region of its own.
PEFT_NOINLINE inline void parallel_for(std::size_t count, bool parallel, FunctionRef<void(std::size_t)> f) {
#if defined(_OPENMP)
    const int team = parallel && count > 1 ? threads() : 1;
    if (team > 1) {
        const auto n = static_cast<std::ptrdiff_t>(count);
        std::atomic<bool> failed{false};
        std::exception_ptr error;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            try {
                f(static_cast<std::size_t>(i));
            } catch (...) {   // must not leave the parallel region
                if (!failed.exchange(true)) error = std::current_exception();
            }
        }
        if (error) std::rethrow_exception(error);
        return;
    }
#else
    static_cast<void>(parallel);
#endif
    for (std::size_t i = 0; i < count; ++i) f(i);
}

PEFT_ISA_END
