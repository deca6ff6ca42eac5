#pragma once
#include <peft/config/abi.hpp>

#include <memory>

PEFT_BEGIN

namespace detail {

/// Counts the layers on a base: each holds a share in the mark. A copy of the base has no layers yet.
class BaseUsers {
public:
    BaseUsers() : mark_(std::make_shared<char>()) {}
    BaseUsers(const BaseUsers&) : BaseUsers() {}
    BaseUsers(BaseUsers&&) noexcept = default;
    BaseUsers& operator=(const BaseUsers&) noexcept { return *this; }
    BaseUsers& operator=(BaseUsers&&) noexcept { return *this; }   // the layers on the target stay on it
    ~BaseUsers() = default;
    std::shared_ptr<const char> join() const noexcept { return mark_; }

private:
    std::shared_ptr<char> mark_;
};

/// The same for views: copies are of the same memory, so layers on any of them count together.
class ViewUsers {
public:
    ViewUsers() : users_(std::make_shared<const BaseUsers>()) {}
    ViewUsers(const ViewUsers&) noexcept = default;   // for rvalues too: a view that was moved from is still one
    ViewUsers& operator=(const ViewUsers&) noexcept = default;
    ~ViewUsers() = default;
    std::shared_ptr<const char> join() const noexcept { return users_->join(); }

private:
    std::shared_ptr<const BaseUsers> users_;
};

}  // namespace detail

PEFT_END
