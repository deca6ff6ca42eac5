#pragma once
#include <peft/config/abi.hpp>

#include <memory>
#include <type_traits>
#include <utility>

PEFT_BEGIN

template <class Signature> class FunctionRef;

/// Non-owning reference to a callable, for one call down the stack: no allocation, unlike std::function.
template <class Result, class... Arguments> class FunctionRef<Result(Arguments...)> {
public:
    template <class F>
        requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef> && std::is_invocable_r_v<Result, F&, Arguments...>)
    FunctionRef(F&& f) noexcept   // implicit: it stands for a parameter `f`
        : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
          call_([](void* object, Arguments... arguments) -> Result {
              return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Arguments>(arguments)...);
          }) {}

    Result operator()(Arguments... arguments) const { return call_(object_, std::forward<Arguments>(arguments)...); }

private:
    void* object_;
    Result (*call_)(void*, Arguments...);
};

PEFT_END
