#pragma once
#include <peft/core/scalar.hpp>
#include <peft/core/value.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// Arrays and objects inside one another; the reference reader of tensor files has the same limit.
inline constexpr std::size_t json_depth_limit = 128;

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END

PEFT_ISA_DETAIL_BEGIN

/// Where `text` stops being UTF-8 (overlong forms, surrogates and numbers above 10FFFF are not), or nothing.
inline std::optional<std::size_t> invalid_utf8(std::string_view text) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    std::size_t i = 0;
    while (i < text.size()) {
        const unsigned lead = byte(i);
        if (lead < 0x80) {
            ++i;
            continue;
        }
        std::size_t length = 0;
        unsigned low = 0x80;    // bounds of the second byte
        unsigned high = 0xbf;
        if (lead >= 0xc2 && lead <= 0xdf) length = 2;
        else if (lead >= 0xe0 && lead <= 0xef) length = 3;
        else if (lead >= 0xf0 && lead <= 0xf4) length = 4;
        else return i;
        if (lead == 0xe0) low = 0xa0;
        if (lead == 0xed) high = 0x9f;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f;
        if (text.size() - i < length || byte(i + 1) < low || byte(i + 1) > high) return i;
        for (std::size_t k = 2; k < length; ++k)
            if ((byte(i + k) & 0xc0) != 0x80) return i;
        i += length;
    }
    return std::nullopt;
}

/// What a JSON text is called in errors.
struct JsonSource {
    std::string_view file;
    std::string_view part{};   // of the file
};

[[noreturn]] PEFT_COLD inline void json_fault(JsonSource source, std::size_t offset, std::string_view what) {
    throw FormatError("not valid JSON: " + std::string(what) + " at byte " + std::to_string(offset),
                      {.file = std::string(source.file), .subject = std::string(source.part)});
}

/// The reason in a message of the JSON library, without its decoration:
/// "[json.exception...] parse error at line 1, column 2: syntax error while ... - reason; last read: ..." or
/// "[json.exception...] number overflow parsing '1e400'".
inline std::string_view json_reason(std::string_view what) {
    std::size_t start = what.find("syntax error");
    if (start == std::string_view::npos) start = what.find("] ") == std::string_view::npos ? 0 : what.find("] ") + 2;
    what.remove_prefix(start);
    return what.substr(0, std::min<std::size_t>(what.find("; last read"), 140));
}

/// Feeds the events of `text` to `handler` (nlohmann's SAX interface) after the checks that the library leaves out:
/// it skips a byte order mark, and takes a NUL for the end. Handlers throw FormatError themselves; `skipped` of the handler
/// is what positions in parse_error() must be increased by.
template <class Handler> void read_json(std::string_view text, JsonSource source, Handler& handler) {
    if (text.starts_with("\xef\xbb\xbf")) json_fault(source, 0, "byte order mark");
    if (const auto offset = invalid_utf8(text)) json_fault(source, *offset, "bytes that are not UTF-8");
    if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) json_fault(source, nul, "NUL byte");
    // White space at the ends may be 100 MB of padding, which is found faster here than by the library.
    constexpr std::string_view white = " \t\n\r";
    const std::size_t first = text.find_first_not_of(white);
    if (first == std::string_view::npos) json_fault(source, text.size(), "end of text, no value");
    handler.skipped = first;
    const std::string_view body = text.substr(first, text.find_last_not_of(white) + 1 - first);
    // The parser itself: json::sax_parse also brings the readers of CBOR, BSON and other formats, 3 s of compilation.
    auto adapter = nlohmann::detail::input_adapter(body.begin(), body.end());
    nlohmann::detail::parser<nlohmann::json, decltype(adapter)> parser(std::move(adapter));
    if (!parser.sax_parse(&handler, true)) json_fault(source, text.size(), "unreadable text");
}

/// Builds a Value from events, with a stack of its own.
class ValueBuilder {
public:
    using number_integer_t = nlohmann::json::number_integer_t;
    using number_unsigned_t = nlohmann::json::number_unsigned_t;
    using number_float_t = nlohmann::json::number_float_t;
    using string_t = nlohmann::json::string_t;
    using binary_t = nlohmann::json::binary_t;

    explicit ValueBuilder(std::string_view file) : file_(file) {}
    Value take() { return std::move(root_); }

    bool null() { return add(Value()); }
    bool boolean(bool value) { return add(Value(value)); }
    bool number_integer(number_integer_t value) { return add(Value(value)); }
    bool number_unsigned(number_unsigned_t value) { return add(Value(value)); }
    bool number_float(number_float_t value, const string_t& text) {
        if (text.find_first_not_of("-0123456789") == std::string::npos) fault("an integer beyond 64 bits", text);
        if (!is_finite(value)) fault("a number beyond the range of double", text);
        return add(Value(value));
    }
    bool string(string_t& value) { return add(Value(std::string(value))); }
    bool binary(binary_t&) { return false; }
    bool start_object(std::size_t) { return open(Value::Object{}); }
    bool start_array(std::size_t) { return open(Value::Array{}); }
    bool key(string_t& name) {
        key_ = name;
        return true;
    }
    bool end_object() {
        refuse_duplicates(stack_.back().value.as_object());
        return close();
    }
    bool end_array() { return close(); }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
        json_fault({file_}, skipped + position - (position == 0 ? 0 : 1), json_reason(error.what()));
    }

    std::size_t skipped = 0;

private:
    struct Level {
        std::string key;   // under which the value goes into the level below
        Value value;
    };

    bool add(Value value) {
        if (stack_.empty()) {
            root_ = std::move(value);
        } else if (Value& parent = stack_.back().value; parent.is_array()) {
            parent.as_array().push_back(std::move(value));
        } else {
            parent.as_object().push_back({std::move(key_), std::move(value)});
        }
        return true;
    }
    bool open(Value container) {
        if (stack_.size() == io::json_depth_limit) {
            throw FormatError("arrays or objects are nested too deep",
                              {.file = std::string(file_),
                               .expected = "at most " + std::to_string(io::json_depth_limit) + " levels"});
        }
        stack_.push_back({std::move(key_), std::move(container)});
        return true;
    }
    bool close() {
        Level level = std::move(stack_.back());
        stack_.pop_back();
        key_ = std::move(level.key);
        return add(std::move(level.value));
    }
    // Sorted once an object is complete: no hash that a file could attack, no quadratic search.
    void refuse_duplicates(const Value::Object& members) const {
        std::vector<const std::string*> keys;
        keys.reserve(members.size());
        for (const Value::Member& member : members) keys.push_back(&member.key);
        std::sort(keys.begin(), keys.end(), [](const auto* a, const auto* b) { return *a < *b; });
        const auto twice = std::adjacent_find(keys.begin(), keys.end(), [](const auto* a, const auto* b) { return *a == *b; });
        if (twice != keys.end()) throw FormatError("a key is given twice", {.file = std::string(file_), .subject = **twice});
    }
    [[noreturn]] void fault(std::string_view what, std::string_view found) const {
        throw FormatError(what, {.file = std::string(file_), .subject = key_, .found = std::string(found)});
    }

    std::string_view file_;
    std::vector<Level> stack_;
    std::string key_;
    Value root_;
};

inline void append_escaped(std::string& out, char32_t unit) {
    constexpr std::string_view digits = "0123456789abcdef";
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += digits[(unit >> shift) & 15];
}

/// A JSON string. `ascii` escapes all that is not ASCII, as Python does; else UTF-8 stays, as the tensor format wants it.
inline void append_json_string(std::string& out, std::string_view text, bool ascii) {
    if (invalid_utf8(text)) {
        throw FormatError("text that is not UTF-8 cannot be written as JSON",
                          {.expected = "UTF-8", .found = std::string(text)});
    }
    out += '"';
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        switch (byte) {
        case '"': out += "\\\""; continue;
        case '\\': out += "\\\\"; continue;
        case '\n': out += "\\n"; continue;
        case '\r': out += "\\r"; continue;
        case '\t': out += "\\t"; continue;
        case '\b': out += "\\b"; continue;
        case '\f': out += "\\f"; continue;
        default: break;
        }
        if (byte < 0x20 || (ascii && byte == 0x7f)) {
            append_escaped(out, byte);
        } else if (byte < 0x80 || !ascii) {
            out += text[i];
        } else {
            const int more = byte >= 0xf0 ? 3 : byte >= 0xe0 ? 2 : 1;
            char32_t point = byte & (0x3fu >> more);
            for (int k = 0; k < more; ++k) point = (point << 6) | (static_cast<unsigned char>(text[++i]) & 0x3fu);
            if (point < 0x10000) {
                append_escaped(out, point);
            } else {
                append_escaped(out, 0xd800 + ((point - 0x10000) >> 10));
                append_escaped(out, 0xdc00 + ((point - 0x10000) & 0x3ff));
            }
        }
    }
    out += '"';
}

/// The shortest digits that read back as `value`, laid out as Python's repr: 8.0, 1e-05, 1e+16.
inline void append_json_real(std::string& out, double value) {
    if (!is_finite(value)) throw FormatError("JSON has no infinity and no NaN", {.expected = "a finite number"});
    char buffer[40];
    const auto result = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
    std::string_view text(buffer, static_cast<std::size_t>(result.ptr - buffer));
    if (text.front() == '-') {
        out += '-';
        text.remove_prefix(1);
    }
    const std::size_t e = text.find('e');
    int exponent = 0;
    const char* first = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
    std::from_chars(first, text.data() + text.size(), exponent);
    std::string digits(1, text[0]);
    if (e > 2) digits += text.substr(2, e - 2);
    if (exponent < -4 || exponent >= 16) {
        out += digits[0];
        if (digits.size() > 1) out.append(1, '.').append(digits, 1);
        out += text.substr(e);
        return;
    }
    if (exponent < 0) {
        out.append("0.").append(static_cast<std::size_t>(-exponent - 1), '0').append(digits);
        return;
    }
    const auto whole = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() < whole + 1) digits.append(whole + 1 - digits.size(), '0');
    out.append(digits, 0, whole).append(1, '.').append(digits, whole);
}

inline void append_json(std::string& out, const Value& value, int indent, std::size_t depth) {
    const auto next_line = [&](std::size_t level) {
        if (indent < 0) return;
        out += '\n';
        out.append(level * static_cast<std::size_t>(indent), ' ');
    };
    const std::string_view comma = indent < 0 ? ", " : ",";
    if (depth > io::json_depth_limit) throw FormatError("a value is nested too deep to be written as JSON");
    if (value.is_null()) {
        out += "null";
    } else if (value.is_bool()) {
        out += value.as_bool() ? "true" : "false";
    } else if (value.is_integer()) {
        out += value.describe();
    } else if (value.is_real()) {
        append_json_real(out, value.as_real());
    } else if (value.is_string()) {
        append_json_string(out, value.as_string(), true);
    } else if (value.is_array()) {
        const Value::Array& items = value.as_array();
        out += '[';
        for (std::size_t i = 0; i < items.size(); ++i) {
            if (i != 0) out += comma;
            next_line(depth + 1);
            append_json(out, items[i], indent, depth + 1);
        }
        if (!items.empty()) next_line(depth);
        out += ']';
    } else {
        std::vector<const Value::Member*> members;
        for (const Value::Member& member : value.as_object()) members.push_back(&member);
        std::sort(members.begin(), members.end(), [](const auto* a, const auto* b) { return a->key < b->key; });
        out += '{';
        for (std::size_t i = 0; i < members.size(); ++i) {
            if (i != 0) out += comma;
            next_line(depth + 1);
            append_json_string(out, members[i]->key, true);
            out += ": ";
            append_json(out, members[i]->value, indent, depth + 1);
        }
        if (!members.empty()) next_line(depth);
        out += '}';
    }
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// Reads JSON as RFC 8259 has it and no more: UTF-8 without byte order mark; no comments, NaN, Infinity, NUL or text after
/// the value. Refused besides: a key given twice (escapes resolved), nesting beyond json_depth_limit, integers beyond 64
/// bits and reals beyond double. Integers never pass through double. `file` is named in errors.
/// Throws FormatError with the byte offset of a fault.
inline Value parse_json(std::string_view text, std::string_view file = {}) {
    detail::ValueBuilder builder(file);
    detail::read_json(text, {file}, builder);
    return builder.take();
}

/// Writes what Python's json.dumps(value, indent=indent, sort_keys=True) writes: keys sorted, ASCII only, 0 and 0.0 kept
/// apart, no line end at the end. A negative indent gives one line. Reading it back gives an equal value.
/// Throws FormatError for infinities, NaN, and strings that are not UTF-8.
inline std::string dump_json(const Value& value, int indent = 2) {
    std::string out;
    detail::append_json(out, value, indent, 0);
    return out;
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
