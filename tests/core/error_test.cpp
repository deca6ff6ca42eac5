#include "support/catch.hpp"

#include <peft/core/error.hpp>
#include <peft/core/shape.hpp>
#include <peft/core/threads.hpp>

#include <clocale>
#include <cstring>
#include <limits>
#include <locale>
#include <string>
#include <type_traits>
#include <vector>

using peft::Error;

static_assert(std::is_nothrow_copy_constructible_v<peft::ShapeError>);
static_assert(std::is_base_of_v<Error, peft::StateError> && std::is_base_of_v<std::runtime_error, Error>);

namespace {
bool printable(const std::string& text) {
    for (const char c : text) {
        if (c < 0x20 || c > 0x7e) return false;
    }
    return true;
}

/// A comma for the point and points between thousands, as much of Europe writes.
struct European : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
};
}  // namespace

TEST_CASE("error: the text is one printable line below 1 KiB, whatever the parts hold") {
    std::string bytes;
    for (int b = 0; b < 256; ++b) bytes += static_cast<char>(b);
    for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{50}, std::size_t{80}, std::size_t{118}, std::size_t{160}, std::size_t{199}, std::size_t{240}, std::size_t{241}, std::size_t{5000}}) {
        // Plain text, text of nothing but escapes, and a mixture that ends just at the limit
        for (const int kind : {0, 1, 2, 3}) {
            std::string text(length, kind == 1 ? '\x01' : 'a');
            if (kind == 2) {
                text.clear();
                while (text.size() < length) text += bytes;
                text.resize(length);
            }
            if (kind == 3 && length > 2) text[length / 2] = '\n';
            const Error error(text, {.file = text, .subject = text, .expected = text, .found = text});
            CAPTURE(length, kind, std::strlen(error.what()));
            CHECK(std::strlen(error.what()) < 1024);
            CHECK(printable(error.what()));
            CHECK(error.context().subject == text);          // the whole of it, for programs
        }
    }
    // every length around each limit
    for (std::size_t length = 0; length < 260; ++length) {
        std::string text(length, 'a');
        for (const std::size_t at : {std::size_t{3}, length / 2, length - 1}) {
            if (at < length) text[at] = '\x7f';
        }
        const Error error(text, {.file = text, .subject = text, .expected = text, .found = text});
        if (std::strlen(error.what()) >= 1024 || !printable(error.what())) FAIL("length " << length << ": " << std::strlen(error.what()));
    }
}

TEST_CASE("error: parts that are each as long as they may be stay below 1 KiB together") {
    const auto longest = [](std::size_t limit) {
        std::string best;
        for (std::size_t length = limit - 6; length < limit + 6; ++length) {
            for (std::size_t escapes = 0; escapes < 4; ++escapes) {
                std::string text(length, 'a');
                for (std::size_t k = 0; k < escapes; ++k) text[k] = '\n';
                if (peft::printable(text, limit).size() > peft::printable(best, limit).size()) best = text;
            }
        }
        return best;
    };
    for (std::size_t file = 100; file <= 260; file += 20) {
        for (std::size_t subject = 160; subject <= 260; subject += 20) {
            const Error error(longest(240), {.file = longest(file), .subject = longest(subject), .expected = longest(160), .found = longest(160)});
            if (std::strlen(error.what()) >= 1024) FAIL(file << ", " << subject << ": " << std::strlen(error.what()));
        }
    }
}

TEST_CASE("error: the text names file, subject, expected and found") {
    const peft::ShapeError error("wrong shape", {.file = "adapter.safetensors", .subject = "lora_A", .expected = "[4, 16]", .found = "[16, 4]"});
    CHECK(std::string(error.what()) == "adapter.safetensors: lora_A: wrong shape (expected [4, 16], found [16, 4])");
    CHECK(std::string(Error("no more").what()) == "no more");
    CHECK(std::string(Error("x", {.found = "7"}).what()) == "x (found 7)");
    CHECK(std::string(Error("x", {.expected = "7"}).what()) == "x (expected 7)");
    CHECK(peft::printable("a\tb\nc\x01\xff") == "a\\tb\\nc\\x01\\xff");
    CHECK_THROWS_WITH(peft::expect_shape("forward: y", 2, 3, 4, 5), "forward: y: wrong shape (expected [4, 5], found [2, 3])");
    CHECK_THROWS_WITH(peft::expect_columns("forward: x", 512, 768, "in"), "forward: x: wrong number of columns (expected in = 768, found 512)");
}

TEST_CASE("error: numbers in messages do not follow the locale") {
    const std::locale old = std::locale::global(std::locale(std::locale::classic(), new European));
    const std::string number = peft::detail::to_text(1234567.5);
    const std::string shape = peft::detail::shape_text(1234567, 1000);
    std::locale::global(old);
    CHECK(number == "1234567.5");
    CHECK(shape == "[1234567, 1000]");
    CHECK(peft::detail::to_text(0.1) == "0.1");
    CHECK(peft::detail::to_text(std::numeric_limits<double>::quiet_NaN()) == "nan");
}

TEST_CASE("threads: a negative count is refused and the old one stays") {
    peft::set_threads(3);
    CHECK_THROWS_AS(peft::set_threads(-1), peft::OptionError);
#if defined(_OPENMP)
    CHECK(peft::threads() == 3);
#else
    CHECK(peft::threads() == 1);
#endif
    peft::set_threads(0);
    CHECK(peft::threads() >= 1);
    for (const int team : {1, 2, 5}) {
        peft::set_threads(team);
        std::vector<int> calls(1000, 0);
        peft::parallel_for(calls.size(), true, [&](std::size_t i) { ++calls[i]; });
        CHECK(calls == std::vector<int>(1000, 1));
    }
    peft::set_threads(0);
    peft::parallel_for(0, true, [](std::size_t) { FAIL("nothing to do"); });
}
