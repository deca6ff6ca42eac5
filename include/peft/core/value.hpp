#pragma once
#include <peft/core/error.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

PEFT_BEGIN

namespace detail {
// A template, so that a vector of it may be named while Value is incomplete.
template <class V> struct KeyAndValue {
    std::string key;
    V value;
    friend bool operator==(const KeyAndValue& a, const KeyAndValue& b) { return a.key == b.key && a.value == b.value; }
};
}  // namespace detail

/// A value as configurations hold it: null, bool, integer, real, string, array or object. Integers and reals stay apart
/// (0 is not 0.0), so that a file is written as it was read. Objects keep the order of their keys, since the order of
/// rank_pattern has a meaning; equality ignores it. Accessors throw FormatError with what was expected and found; their
/// argument names the value in the message.
class Value {
public:
    using Member = detail::KeyAndValue<Value>;
    using Array = std::vector<Value>;
    using Object = std::vector<Member>;

    Value() noexcept = default;
    Value(std::nullptr_t) noexcept {}
    template <std::same_as<bool> B> Value(B value) noexcept : data_(value) {}
    template <std::integral I>
        requires(!std::same_as<I, bool>)
    Value(I value) noexcept : data_(integer(value)) {}
    template <std::floating_point F> Value(F value) noexcept : data_(static_cast<double>(value)) {}
    Value(std::string value) noexcept : data_(std::move(value)) {}
    Value(std::string_view value) : data_(std::string(value)) {}
    Value(const char* value) : data_(std::string(value)) {}
    Value(Array value) noexcept : data_(std::move(value)) {}
    Value(Object value) noexcept : data_(std::move(value)) {}

    bool is_null() const noexcept { return std::holds_alternative<std::monostate>(data_); }
    bool is_bool() const noexcept { return std::holds_alternative<bool>(data_); }
    bool is_integer() const noexcept {
        return std::holds_alternative<std::int64_t>(data_) || std::holds_alternative<std::uint64_t>(data_);
    }
    bool is_real() const noexcept { return std::holds_alternative<double>(data_); }
    /// Integer or real.
    bool is_number() const noexcept { return is_integer() || is_real(); }
    bool is_string() const noexcept { return std::holds_alternative<std::string>(data_); }
    bool is_array() const noexcept { return std::holds_alternative<Array>(data_); }
    bool is_object() const noexcept { return std::holds_alternative<Object>(data_); }

    bool as_bool(std::string_view what = {}) const { return get<bool>(what, "true or false"); }
    std::int64_t as_integer(std::string_view what = {}) const {
        if (is_integer() && !std::holds_alternative<std::int64_t>(data_)) mismatch(what, "an integer below 2^63");
        return get<std::int64_t>(what, "an integer");
    }
    std::uint64_t as_unsigned(std::string_view what = {}) const {
        if (const auto* large = std::get_if<std::uint64_t>(&data_)) return *large;
        const auto* value = std::get_if<std::int64_t>(&data_);
        if (value == nullptr || *value < 0) mismatch(what, "an integer that is not negative");
        return static_cast<std::uint64_t>(*value);
    }
    PEFT_INLINE double as_real(std::string_view what = {}) const { return get<double>(what, "a real number"); }
    /// An integer or a real as double.
    PEFT_INLINE double as_number(std::string_view what = {}) const {
        if (const auto* value = std::get_if<std::int64_t>(&data_)) return static_cast<double>(*value);
        if (const auto* value = std::get_if<std::uint64_t>(&data_)) return static_cast<double>(*value);
        return get<double>(what, "a number");
    }
    const std::string& as_string(std::string_view what = {}) const { return get<std::string>(what, "a string"); }
    const Array& as_array(std::string_view what = {}) const { return get<Array>(what, "an array"); }
    const Object& as_object(std::string_view what = {}) const { return get<Object>(what, "an object"); }
    Array& as_array(std::string_view what = {}) { return const_cast<Array&>(std::as_const(*this).as_array(what)); }
    Object& as_object(std::string_view what = {}) { return const_cast<Object&>(std::as_const(*this).as_object(what)); }

    /// The value under a key of an object, or null. Throws FormatError if this is not an object.
    const Value* find(std::string_view key) const;
    /// The same, but the key must be there.
    const Value& at(std::string_view key) const;
    /// Sets a key, which keeps its place if it is there; null becomes an object first.
    Value& set(std::string_view key, Value value);

    /// What this is, for messages: null, true, 5, 0.5, "text", an array of 2, an object with 3 keys.
    std::string describe() const;

    friend bool operator==(const Value& a, const Value& b);

private:
    using Data = std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array, Object>;

    template <class T> const T& get(std::string_view what, std::string_view expected) const {
        const T* value = std::get_if<T>(&data_);
        if (value == nullptr) mismatch(what, expected);
        return *value;
    }
    // One representation for each number: unsigned only where signed does not reach.
    template <class I> static auto integer(I value) noexcept {
        Data data;
        if (std::in_range<std::int64_t>(value)) data = static_cast<std::int64_t>(value);
        else data = static_cast<std::uint64_t>(value);
        return data;
    }
    [[noreturn]] PEFT_COLD void mismatch(std::string_view what, std::string_view expected) const {
        throw FormatError("wrong type of value",
                          {.subject = std::string(what), .expected = std::string(expected), .found = describe()});
    }

    Data data_;
};

inline const Value* Value::find(std::string_view key) const {
    for (const Member& member : as_object(key))
        if (member.key == key) return &member.value;
    return nullptr;
}

inline const Value& Value::at(std::string_view key) const {
    const Value* value = find(key);
    if (value == nullptr) throw FormatError("a required key is missing", {.subject = std::string(key)});
    return *value;
}

inline Value& Value::set(std::string_view key, Value value) {
    if (is_null()) data_ = Object{};
    Object& members = as_object(key);
    for (Member& member : members)
        if (member.key == key) return member.value = std::move(value);
    members.push_back({std::string(key), std::move(value)});
    return members.back().value;
}

inline std::string Value::describe() const {
    if (is_null()) return "null";
    if (is_bool()) return detail::to_text(as_bool());
    if (const auto* value = std::get_if<std::int64_t>(&data_)) return std::to_string(*value);
    if (const auto* value = std::get_if<std::uint64_t>(&data_)) return std::to_string(*value);
    if (is_real()) {
        std::string text = detail::to_text(as_real());
        if (text.find_first_of(".en") == std::string::npos) text += ".0";
        return text;
    }
    if (is_string()) return '"' + printable(as_string(), 100) + '"';
    if (is_array()) return as_array().empty() ? "an empty array" : "an array of " + std::to_string(as_array().size());
    return as_object().empty() ? "an empty object" : "an object with " + std::to_string(as_object().size()) + " keys";
}

inline bool operator==(const Value& a, const Value& b) {
    if (a.data_.index() != b.data_.index()) return false;
    // Not a.data_ == b.data_: that compares doubles in a function that units with other -m flags would share. From their bits,
    // equal are the same number that is no NaN, and the two zeros.
    if (const auto* real = std::get_if<double>(&a.data_)) {
        std::uint64_t x = 0, y = 0;
        std::memcpy(&x, real, sizeof x);
        std::memcpy(&y, std::get_if<double>(&b.data_), sizeof y);
        constexpr std::uint64_t infinity = std::uint64_t{0x7ff} << 52;
        return x == y ? (x & ~(std::uint64_t{1} << 63)) <= infinity : ((x | y) << 1) == 0;
    }
    if (const auto* flag = std::get_if<bool>(&a.data_)) return *flag == *std::get_if<bool>(&b.data_);
    if (const auto* number = std::get_if<std::int64_t>(&a.data_)) return *number == *std::get_if<std::int64_t>(&b.data_);
    if (const auto* number = std::get_if<std::uint64_t>(&a.data_)) return *number == *std::get_if<std::uint64_t>(&b.data_);
    if (const auto* text = std::get_if<std::string>(&a.data_)) return *text == *std::get_if<std::string>(&b.data_);
    if (const auto* items = std::get_if<Value::Array>(&a.data_)) return *items == *std::get_if<Value::Array>(&b.data_);
    const auto* left = std::get_if<Value::Object>(&a.data_);
    if (left == nullptr) return true;   // both are null
    const auto* right = std::get_if<Value::Object>(&b.data_);
    if (left->size() != right->size()) return false;
    const auto sorted = [](const Value::Object& members) {
        std::vector<const Value::Member*> result;
        result.reserve(members.size());
        for (const Value::Member& member : members) result.push_back(&member);
        std::sort(result.begin(), result.end(), [](const auto* x, const auto* y) { return x->key < y->key; });
        return result;
    };
    const auto equal = [](const auto* x, const auto* y) { return *x == *y; };
    const auto first = sorted(*left);
    return std::equal(first.begin(), first.end(), sorted(*right).begin(), equal);
}

PEFT_END
