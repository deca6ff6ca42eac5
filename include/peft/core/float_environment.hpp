#pragma once
#include <peft/config/abi.hpp>

#include <cfenv>

PEFT_BEGIN

/// While it lives, the calling thread rounds to nearest and keeps subnormals, whatever its caller or -ffast-math set up;
/// then the old state returns. What must give the same bits twice, possibly on another thread, runs under it.
class DefaultFloatEnvironment {
public:
    DefaultFloatEnvironment() noexcept {
        std::fegetenv(&old_);
        std::fesetenv(FE_DFL_ENV);
    }
    DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
    DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;
    ~DefaultFloatEnvironment() { std::fesetenv(&old_); }

private:
    std::fenv_t old_{};
};

PEFT_END
