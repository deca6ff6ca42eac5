#pragma once
#include <peft/core/concepts.hpp>
#include <peft/kernels/checksum.hpp>

#include <cstdint>
#include <memory>

PEFT_ISA_BEGIN
template <class Base, class Method> class Adapted;
PEFT_ISA_END

PEFT_ISA_DETAIL_BEGIN

template <class L> inline constexpr bool is_adapted_v = false;
template <class B, class M> inline constexpr bool is_adapted_v<Adapted<B, M>> = true;

/// A base is held by value, by reference, or by shared_ptr.
template <class Base> struct Holder {
    using type = Base;
    Base held;
    type& get() noexcept { return held; }
    const type& get() const noexcept { return held; }
};
template <class Base> struct Holder<Base&> {
    using type = Base;
    Base* held;
    type& get() const noexcept { return *held; }
};
template <class Base> struct Holder<std::shared_ptr<Base>> {
    using type = Base;
    std::shared_ptr<Base> held;
    type& get() const noexcept { return *held; }
};

// What a method does, asked at run time only where the method says it depends (IA3, AnyAdapter).
template <class M> bool adapts_input(const M& method) {
    if constexpr (!InputAdapter<M>) return false;
    else if constexpr (requires { method.adapts_input(); }) return method.adapts_input();
    else return true;
}
template <class M> bool adapts_output(const M& method) {
    if constexpr (!OutputAdapter<M>) return false;
    else if constexpr (requires { method.adapts_output(); }) return method.adapts_output();
    else return true;
}
template <class M> bool replaces_base(const M& method) {
    if constexpr (requires { method.replaces_base(); }) return method.replaces_base();
    else return false;
}
template <class M> bool changes_bias(const M& method) {
    if constexpr (requires { method.changes_bias(); }) return method.changes_bias();
    else return false;
}
template <class M> bool rewrites_output_gradient(const M& method) {
    if constexpr (requires { method.rewrites_output_gradient(); }) return method.rewrites_output_gradient();
    else return RewritesOutputGradient<M>;
}
template <class M> constexpr bool reads_base_v = [] {
    if constexpr (requires { M::reads_base; }) return M::reads_base;
    else return false;
}();
template <class M> bool reads_base(const M& method) {
    if constexpr (requires { method.needs_readable_base(); }) return method.needs_readable_base();
    else return reads_base_v<M>;
}

/// A method that may ask for a base of its own to change: wants_rebase(), set_rebased(bool), knows_rebased(bool), and either
///   rebase_plan()   one change at the start (PiSSA), or
///   entries()       numbers that are trained among those of W (SaRA)
template <class M> concept Rebasable = requires(M& m, const M& c) { c.wants_rebase(); m.set_rebased(true); c.knows_rebased(true); };
template <class M> PlanPointer<typename M::value_type> rebase_plan(const M& method) {
    if constexpr (requires { method.rebase_plan(); }) return method.rebase_plan();
    else return nullptr;
}
template <class M> Entries<typename M::value_type> entries(const M& method) {
    if constexpr (requires { method.entries(); }) return method.entries();
    else return {};
}

/// A share in the mark that a base gives to every layer on it; nullptr from a base without one.
template <class B> std::shared_ptr<const char> join_base(const B& base) {
    if constexpr (requires { base.join(); }) return base.join();
    else return nullptr;
}

template <class B> struct tape_of { using type = Nothing; };
template <TapedLinear B> struct tape_of<B> { using type = typename B::Tape; };

PEFT_ISA_DETAIL_END

PEFT_ISA_BEGIN

/// The stream adapt() takes when none is given: a hash of the first row of W, so that layers of one shape with different
/// weights differ in what they draw, run after run, without any global counter.
template <Linear B> std::uint64_t default_stream(const B& base) {
    using T = linear_value_t<B>;
    // Not the adapted weight of a nested layer: its last bits depend on the instruction set.
    if constexpr (requires { base.stream(); }) return detail::mix64(base.stream() + 0x9e3779b97f4a7c15ull);
    const LayerShape shape = linear_access<B>::shape(base);
    std::uint64_t hash = detail::mix64(shape.in + 0x9e3779b97f4a7c15ull * shape.out);
    if constexpr (ReadableLinear<B>) {
        if (shape.in != 0 && shape.out != 0) {
            ArenaScope scope;
            const auto row = scope.matrix<T>(1, shape.in);
            linear_access<B>::read_rows(base, 0, row);
            hash = checksum(row.data(), row.size() * sizeof(T), hash);
        }
    }
    return hash;
}

PEFT_ISA_END
