#pragma once

/// Compiler facts and the few macros the language has no word for.

#if defined(__clang__)
#define PEFT_CLANG 1
#elif defined(__GNUC__)
#define PEFT_GCC 1
#endif

#if defined(__GNUC__)
/// Must be inlined: a body that runs under the target attribute of its caller, or an accessor that may not become
/// a symbol of its own (units with other -m flags would share it).
#define PEFT_INLINE [[gnu::always_inline]] inline
#define PEFT_NOINLINE [[gnu::noinline]]
#define PEFT_COLD [[gnu::cold, gnu::noinline]]
#else
#define PEFT_INLINE inline
#define PEFT_NOINLINE
#define PEFT_COLD
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define PEFT_X86_64 1
#endif

/// Internal invariants only: user input is checked by code that throws in every build.
#if defined(PEFT_ASSERT)
#include <cassert>
#define PEFT_EXPECTS(condition) assert(condition)
#else
#define PEFT_EXPECTS(condition) static_cast<void>(0)
#endif
