#pragma once
#include <peft/core/error.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_ISA_DETAIL_BEGIN

/// The code point at `at`, which moves behind it. A byte that is not UTF-8 counts as a character of its own, above all
/// code points, so that it equals itself only.
inline char32_t next_character(std::string_view text, std::size_t& at) noexcept {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = byte(at);
    const std::size_t length = lead < 0x80 ? 1 : lead >= 0xc2 && lead <= 0xdf ? 2 : (lead & 0xf0) == 0xe0 ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
    if (length == 1) {
        ++at;
        return lead;
    }
    constexpr char32_t invalid = 0x110000;
    if (length == 0 || text.size() - at < length) {
        ++at;
        return invalid + lead;
    }
    char32_t point = lead & (0x7fu >> length);
    for (std::size_t k = 1; k < length; ++k) {
        if ((byte(at + k) & 0xc0) != 0x80) {
            ++at;
            return invalid + lead;
        }
        point = (point << 6) | (byte(at + k) & 0x3fu);
    }
    constexpr std::array<char32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
    if (point < least[length] || point > 0x10ffff) {
        ++at;
        return invalid + lead;
    }
    at += length;
    return point;
}

struct CharacterRange {
    char32_t first;
    char32_t last;
};

inline constexpr char32_t last_character = 0xffffffff;
inline constexpr std::array<CharacterRange, 1> digit_characters{{{'0', '9'}}};
inline constexpr std::array<CharacterRange, 4> word_characters{{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}};
inline constexpr std::array<CharacterRange, 3> space_characters{{{'\t', '\r'}, {0x1c, 0x1f}, {' ', ' '}}};

/// \d \D \w \W \s \S; nothing for another letter.
inline std::optional<std::vector<CharacterRange>> named_class(char letter) {
    std::span<const CharacterRange> base;
    switch (letter) {
    case 'd': case 'D': base = digit_characters; break;
    case 'w': case 'W': base = word_characters; break;
    case 's': case 'S': base = space_characters; break;
    default: return std::nullopt;
    }
    if (letter >= 'a') return std::vector<CharacterRange>(base.begin(), base.end());
    std::vector<CharacterRange> rest;
    char32_t next = 0;
    for (const CharacterRange range : base) {
        if (range.first > next) rest.push_back({next, range.first - 1});
        next = range.last + 1;
    }
    rest.push_back({next, last_character});
    return rest;
}

/// A set of characters: a bit for each ASCII one, sorted ranges for the rest.
struct CharacterSet {
    std::array<std::uint64_t, 2> ascii{};
    std::vector<CharacterRange> ranges;

    CharacterSet(std::vector<CharacterRange> members, bool negated) {
        std::sort(members.begin(), members.end(), [](CharacterRange a, CharacterRange b) { return a.first < b.first; });
        char32_t next = 0;       // first character not looked at yet
        bool done = false;       // the last character is a member
        const auto add = [&](char32_t first, char32_t last) {
            ranges.push_back({first, last});
            for (char32_t c = first; c <= last && c < 128; ++c) ascii[c / 64] |= std::uint64_t{1} << (c % 64);
        };
        for (const CharacterRange range : members) {
            if (done || range.last < next) continue;
            const char32_t first = std::max(range.first, next);
            if (!negated) add(first, range.last);
            else if (first > next) add(next, first - 1);
            if (range.last == last_character) done = true;
            else next = range.last + 1;
        }
        if (negated && !done) add(next, last_character);
    }
    bool has(char32_t c) const noexcept {
        if (c < 128) return ((ascii[c / 64] >> (c % 64)) & 1) != 0;
        const auto after = std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t value, CharacterRange range) { return value < range.first; });
        return after != ranges.begin() && c <= std::prev(after)->last;
    }
};

PEFT_ISA_DETAIL_END
