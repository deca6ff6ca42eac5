#include "support/catch.hpp"

#include <peft/core/value.hpp>

#include <limits>
#include <string>
#include <vector>

using peft::Value;

TEST_CASE("value: reals are equal as numbers are, though their bits are compared") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    CHECK(Value(1.5) == Value(1.5));
    CHECK_FALSE(Value(1.5) == Value(-1.5));
    CHECK(Value(0.0) == Value(-0.0));
    CHECK(Value(infinity) == Value(infinity));
    CHECK_FALSE(Value(infinity) == Value(-infinity));
    CHECK_FALSE(Value(nan) == Value(nan));
    CHECK_FALSE(Value(-nan) == Value(-nan));
}

TEST_CASE("value: equality keeps the kinds of values apart") {
    CHECK(Value() == Value());
    CHECK_FALSE(Value(0) == Value(0.0));
    CHECK_FALSE(Value(true) == Value(false));
    CHECK_FALSE(Value(true) == Value(1));
    CHECK(Value(~0ull) == Value(~0ull));
    CHECK_FALSE(Value(-1) == Value(~0ull));
    CHECK(Value("a") == Value("a"));
    CHECK_FALSE(Value("a") == Value("b"));
    CHECK(Value(std::vector<Value>{1, 2.5}) == Value(std::vector<Value>{1, 2.5}));
    CHECK_FALSE(Value(std::vector<Value>{1, 2.5}) == Value(std::vector<Value>{1, 2.25}));
    CHECK_FALSE(Value(std::vector<Value>{1}) == Value(std::vector<Value>{1, 2}));
}
