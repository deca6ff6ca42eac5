#pragma once
#include <peft/config/config.hpp>
#include <peft/config/version.hpp>

// Two inline namespaces keep translation units apart that must not share code:
//   - the ABI namespace (version, asserts) around everything;
//   - the instruction-set namespace around whatever holds a loop or floating-point arithmetic: otherwise the linker
//     may keep the copy that a unit with -mavx512f made and run it where only SSE2 exists, or keep the copy of a
//     -ffast-math unit for everybody.
// Vocabulary types (views, shapes, errors, options) live in the first only, so that they can cross units.

#define PEFT_JOIN4_(a, b, c, d) a##b##c##d
#define PEFT_JOIN4(a, b, c, d) PEFT_JOIN4_(a, b, c, d)
#define PEFT_JOIN2_(a, b) a##b
#define PEFT_JOIN2(a, b) PEFT_JOIN2_(a, b)

#if defined(PEFT_ASSERT)
#define PEFT_ABI_NAME PEFT_JOIN2(PEFT_JOIN4(v, PEFT_VERSION_MAJOR, _, PEFT_VERSION_MINOR), _asserts)
#else
#define PEFT_ABI_NAME PEFT_JOIN4(v, PEFT_VERSION_MAJOR, _, PEFT_VERSION_MINOR)
#endif

#if defined(__AVX512F__)
#define PEFT_ISA_BASE isa_avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define PEFT_ISA_BASE isa_avx2
#elif defined(__AVX__)
#define PEFT_ISA_BASE isa_avx
#elif defined(__SSE3__)
#define PEFT_ISA_BASE isa_sse3
#else
#define PEFT_ISA_BASE isa_baseline
#endif
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ == 1)
#define PEFT_ISA_NAME PEFT_JOIN2(PEFT_ISA_BASE, _fast)
#else
#define PEFT_ISA_NAME PEFT_ISA_BASE
#endif

#define PEFT_BEGIN namespace peft { inline namespace PEFT_ABI_NAME {
#define PEFT_END }}
#define PEFT_ISA_BEGIN namespace peft { inline namespace PEFT_ABI_NAME { inline namespace PEFT_ISA_NAME {
#define PEFT_ISA_END }}}
// Internals of the second kind; a second namespace `detail` inside the inner inline namespace would be ambiguous.
#define PEFT_ISA_DETAIL_BEGIN namespace peft { inline namespace PEFT_ABI_NAME { namespace detail { inline namespace PEFT_ISA_NAME {
#define PEFT_ISA_DETAIL_END }}}}
