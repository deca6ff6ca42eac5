#pragma once
#include <peft/config/abi.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

PEFT_BEGIN

/// What an error is about; empty where it does not apply.
struct ErrorContext {
    std::string file{};      ///< path of the file concerned
    std::string subject{};   ///< tensor, configuration key, option or module
    std::string expected{};
    std::string found{};
};

/// Text that is safe in one line of a log: printable ASCII, the rest as \n, \t, \xHH; at most `limit` bytes, cut in the
/// middle with "...". Names from files pass through here before they reach a message.
inline std::string printable(std::string_view text, std::size_t limit = 160) {
    const auto append = [](std::string& out, std::string_view part) {
        constexpr std::string_view digits = "0123456789abcdef";
        for (const char c : part) {
            const auto byte = static_cast<unsigned char>(c);
            if (byte >= 0x20 && byte < 0x7f) { out += c; continue; }
            out += '\\';
            if (c == '\n') out += 'n';
            else if (c == '\t') out += 't';
            else { out += 'x'; out += digits[byte >> 4]; out += digits[byte & 15]; }
        }
    };
    std::string out;
    if (text.size() <= limit) {
        append(out, text);
    } else {
        append(out, text.substr(0, limit / 2));
        out += "...";
        append(out, text.substr(text.size() - limit / 4));
    }
    if (out.size() > limit + 3) out = out.substr(0, limit / 2) + "..." + out.substr(out.size() - limit / 4);
    return out;
}

/// Base of everything the library throws on purpose. what() is one line of printable ASCII below 1 KiB:
/// "file: subject: message (expected ..., found ...)".
class Error : public std::runtime_error {
public:
    explicit Error(std::string_view message, ErrorContext context = {})
        : std::runtime_error(compose(message, context)),
          context_(std::make_shared<const ErrorContext>(std::move(context))) {}

    const ErrorContext& context() const noexcept { return *context_; }

private:
    static std::string compose(std::string_view message, const ErrorContext& context) {
        std::string text;   // the limits add up to 1014 bytes with the three that each "..." may add
        if (!context.file.empty()) text += printable(context.file, 175) + ": ";
        if (!context.subject.empty()) text += printable(context.subject, 240) + ": ";
        text += printable(message, 240);
        if (!context.expected.empty() || !context.found.empty()) {
            text += " (";
            if (!context.expected.empty()) text += "expected " + printable(context.expected);
            if (!context.expected.empty() && !context.found.empty()) text += ", ";
            if (!context.found.empty()) text += "found " + printable(context.found);
            text += ')';
        }
        constexpr std::size_t limit = 1000;   // below 1 KiB, whatever the parts
        if (text.size() > limit) text.replace(limit, std::string::npos, "...");
        return text;
    }

    std::shared_ptr<const ErrorContext> context_;   // shared: copying an exception must not throw
};

/// A matrix or vector does not have the shape the operation needs.
class ShapeError : public Error { using Error::Error; };
/// An option of a method, optimizer or schedule is outside its range.
class OptionError : public Error { using Error::Error; };
/// The call does not fit the state of the object: merging twice, inference before prepare(), training while merged.
class StateError : public Error { using Error::Error; };
/// A number that must be finite is not, or would overflow its storage.
class NumericError : public Error { using Error::Error; };
/// A file does not follow its format, or does not fit what it is loaded into.
class FormatError : public Error { using Error::Error; };
/// A valid file that asks for a method or feature this version does not have.
class UnsupportedError : public FormatError { using FormatError::FormatError; };
/// The operating system refused: open, read, write, sync, rename.
class FileError : public Error { using Error::Error; };

namespace detail {

/// Throws StateError. A call, where templates would repeat the code that makes the texts.
[[noreturn]] PEFT_NOINLINE inline void refuse_state(std::string_view subject, std::string_view message) { throw StateError(message, {.subject = std::string(subject)}); }

/// Decimal text of a number without the global locale.
inline std::string to_text(double value) {
    char buffer[32];
    const auto result = std::to_chars(buffer, buffer + sizeof buffer, value);
    return std::string(buffer, result.ptr);
}
PEFT_INLINE std::string to_text(float value) { return to_text(static_cast<double>(value)); }
inline std::string to_text(std::size_t value) { return std::to_string(value); }
inline std::string to_text(int value) { return std::to_string(value); }
inline std::string to_text(bool value) { return value ? "true" : "false"; }
inline std::string to_text(std::string_view value) { return std::string(value); }

/// "[4, 16]"
inline std::string shape_text(std::size_t rows, std::size_t cols) {
    // by +=: g++ 12 sees an overlapping copy in "[" + std::string (GCC bug 105651) and -Werror stops there
    std::string text = "[";
    text += std::to_string(rows);
    text += ", ";
    text += std::to_string(cols);
    text += ']';
    return text;
}

}  // namespace detail

PEFT_END
