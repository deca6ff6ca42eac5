#pragma once
#include <peft/core/error.hpp>
#include <peft/io/character_set.hpp>

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

/// One step of the automaton. split goes to `next` before `other`: the order is that of a backtracking matcher.
struct PatternStep {
    enum class Kind : std::uint8_t { character, set, split, jump, text_begin, text_end, line_end, boundary, no_boundary, mark, match };
    Kind kind = Kind::match;
    std::uint32_t next = 0;
    std::uint32_t other = 0;   // second way of a split; index of a set; number of a mark
    char32_t character = 0;
};

/// The steps of a pattern. Groups are counted, their contents kept for one of them only: the last.
struct PatternProgram {
    std::vector<PatternStep> steps;
    std::vector<CharacterSet> sets;
};

/// Parses a pattern into a tree and lays the tree out as steps.
class PatternCompiler {
public:
    /// The first and last bytes of `text` may be ours: `prefix` is what offsets in errors are reduced by.
    PatternCompiler(std::string_view text, std::size_t prefix, std::string_view shown, std::string_view file, std::string_view key)
        : text_(text), prefix_(prefix), shown_(shown), file_(file), key_(key) {}

    PatternProgram compile(bool mark_last_group) {
        if (text_.size() > step_limit) too_large();
        const std::uint32_t root = alternatives(0);
        if (at_ != text_.size()) fault("unbalanced parenthesis", at_);
        marked_group_ = mark_last_group ? groups_ : 0;
        lay_out(root);
        add({.kind = Step::match});
        return std::move(program_);
    }

    static constexpr std::size_t step_limit = 50'000;
    static constexpr std::size_t depth_limit = 100;

private:
    using Step = PatternStep::Kind;
    struct Node {
        enum class Kind : std::uint8_t { empty, single, sequence, alternatives, repeat, group };
        Kind kind = Kind::empty;
        PatternStep step{};                    // single
        std::vector<std::uint32_t> children{};
        std::uint32_t least = 0, most = 0;     // repeat
        bool lazy = false;                     // repeat
        std::uint32_t number = 0;              // group: 0 if it captures nothing
    };
    static constexpr std::uint32_t unbounded = std::numeric_limits<std::uint32_t>::max();

    [[noreturn]] PEFT_COLD void fault(std::string_view what, std::size_t offset) const {
        const std::size_t shown_offset = offset < prefix_ ? 0 : std::min(offset - prefix_, shown_.size());
        throw FormatError("bad pattern: " + std::string(what) + " at offset " + std::to_string(shown_offset),
                          {.file = std::string(file_), .subject = std::string(key_), .found = std::string(shown_)});
    }
    [[noreturn]] PEFT_COLD void too_large() const {
        throw FormatError("bad pattern: too large once its repetitions are written out",
                          {.file = std::string(file_),
                           .subject = std::string(key_),
                           .expected = "at most " + std::to_string(step_limit) + " steps",
                           .found = std::string(shown_)});
    }

    bool more() const noexcept { return at_ < text_.size(); }
    char peek(std::size_t ahead = 0) const noexcept { return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0'; }
    bool take(char c) noexcept {
        if (!more() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    std::uint32_t add_node(Node node) {
        nodes_.push_back(std::move(node));
        return static_cast<std::uint32_t>(nodes_.size() - 1);
    }
    std::uint32_t add_single(PatternStep step) { return add_node({.kind = Node::Kind::single, .step = step}); }
    std::uint32_t add_set(std::vector<CharacterRange> members, bool negated) {
        program_.sets.emplace_back(std::move(members), negated);
        return add_single({.kind = Step::set, .other = static_cast<std::uint32_t>(program_.sets.size() - 1)});
    }

    std::uint32_t alternatives(std::size_t depth) {
        if (depth > depth_limit) fault("groups nested deeper than " + std::to_string(depth_limit), at_);
        Node node{.kind = Node::Kind::alternatives};
        do node.children.push_back(sequence(depth));
        while (take('|'));
        return node.children.size() == 1 ? node.children.front() : add_node(std::move(node));
    }

    std::uint32_t sequence(std::size_t depth) {
        Node node{.kind = Node::Kind::sequence};
        while (more() && peek() != '|' && peek() != ')') {
            const std::size_t start = at_;
            const std::uint32_t item = quantified(start, depth);
            node.children.push_back(item);
        }
        if (node.children.empty()) node.kind = Node::Kind::empty;
        return add_node(std::move(node));
    }

    std::uint32_t quantified(std::size_t start, std::size_t depth) {
        const std::uint32_t item = atom(depth);
        const std::size_t quantifier_at = at_;
        auto bounds = quantifier();
        if (!bounds) return item;
        const bool repeatable = nodes_[item].kind != Node::Kind::single || nodes_[item].step.kind == Step::character ||
                                nodes_[item].step.kind == Step::set;
        if (!repeatable) fault("nothing to repeat", start);
        if (bounds->first > bounds->second) fault("minimum repeat greater than maximum", quantifier_at);
        Node node{.kind = Node::Kind::repeat, .children = {item}, .least = bounds->first, .most = bounds->second};
        if (take('?')) node.lazy = true;
        else if (peek() == '+' && more()) fault("possessive quantifier, which is not supported,", quantifier_at);
        const std::size_t again = at_;
        if (quantifier()) fault("multiple repeat", again);
        return add_node(std::move(node));
    }

    // A '{' that begins no bounds is an ordinary character, as in Python.
    std::optional<std::pair<std::uint32_t, std::uint32_t>> quantifier() {
        if (take('*')) return std::pair{0u, unbounded};
        if (take('+')) return std::pair{1u, unbounded};
        if (take('?')) return std::pair{0u, 1u};
        if (peek() != '{' || !more()) return std::nullopt;
        const std::size_t start = at_++;
        const auto low = number(start);
        const bool comma = take(',');
        const auto high = comma ? number(start) : low;
        if ((!low && !comma) || !take('}')) {
            at_ = start;
            return std::nullopt;
        }
        const std::uint32_t least = low ? *low : 0;
        const std::uint32_t most = high ? *high : unbounded;
        return std::pair{least, most};
    }
    std::optional<std::uint32_t> number(std::size_t start) {
        if (peek() < '0' || peek() > '9') return std::nullopt;
        std::uint32_t value = 0;
        while (peek() >= '0' && peek() <= '9') {
            value = value * 10 + static_cast<std::uint32_t>(peek() - '0');
            if (value > 100'000'000) fault("repeat bound too large", start);
            ++at_;
        }
        return value;
    }

    std::uint32_t atom(std::size_t depth) {
        const std::size_t start = at_;
        switch (peek()) {
        case '*': case '+': case '?': fault("nothing to repeat", start);
        case '{':
            if (quantifier()) fault("nothing to repeat", start);
            break;
        case '(': return group(depth);
        case '[': return bracket();
        case '\\': return escape();
        case '.': ++at_; return add_set({{'\n', '\n'}}, true);
        case '^': ++at_; return add_single({.kind = Step::text_begin});
        case '$': ++at_; return add_single({.kind = Step::line_end});
        default: break;
        }
        return add_single({.kind = Step::character, .character = next_character(text_, at_)});
    }

    std::uint32_t group(std::size_t depth) {
        const std::size_t start = at_++;
        Node node{.kind = Node::Kind::group};
        if (take('?')) {
            if (!take(':')) fault(extension(), start);
        } else {
            node.number = ++groups_;
        }
        node.children.push_back(alternatives(depth + 1));
        if (!take(')')) fault("missing ), unterminated group", start);
        return add_node(std::move(node));
    }
    std::string_view extension() const noexcept {
        switch (peek()) {
        case '=': case '!': return "lookahead, which is not supported,";
        case '<': return "lookbehind, which is not supported,";
        case 'P': return peek(1) == '<' ? "named group, which is not supported," : "named reference, which is not supported,";
        case '#': return "comment, which is not supported,";
        case '>': return "atomic group, which is not supported,";
        case '(': return "conditional group, which is not supported,";
        default: return "inline flags, which are not supported,";
        }
    }

    std::uint32_t escape() {
        const std::size_t start = at_;
        const char letter = peek(1);
        if (at_ + 1 >= text_.size()) fault("backslash at the end", start);
        if (auto members = named_class(letter)) {
            at_ += 2;
            return add_set(std::move(*members), false);
        }
        const auto assertion = [&](Step kind) {
            at_ += 2;
            return add_single({.kind = kind});
        };
        switch (letter) {
        case 'b': return assertion(Step::boundary);
        case 'B': return assertion(Step::no_boundary);
        case 'A': return assertion(Step::text_begin);
        case 'Z': return assertion(Step::text_end);
        default: break;
        }
        if (letter >= '1' && letter <= '9') fault("backreference, which is not supported,", start);
        return add_single({.kind = Step::character, .character = escaped_character()});
    }
    // A backslash and what stands for one character, both inside and outside of brackets.
    char32_t escaped_character() {
        const std::size_t start = at_++;
        const char letter = text_[at_];
        switch (letter) {
        case 'n': ++at_; return '\n';
        case 't': ++at_; return '\t';
        case 'r': ++at_; return '\r';
        case 'f': ++at_; return '\f';
        case 'v': ++at_; return '\v';
        case 'a': ++at_; return '\a';
        case 'x': return hexadecimal(start, 2);
        case 'u': return hexadecimal(start, 4);
        case 'U': return hexadecimal(start, 8);
        default: break;
        }
        if (letter >= '0' && letter <= '9') fault("octal escape, which is not supported,", start);
        if ((letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z')) fault("bad escape", start);
        return next_character(text_, at_);
    }
    char32_t hexadecimal(std::size_t start, int digits) {
        ++at_;
        char32_t value = 0;
        for (int i = 0; i < digits; ++i, ++at_) {
            const char c = peek();
            const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
            if (digit < 0) fault("incomplete escape", start);
            value = value * 16 + static_cast<char32_t>(digit);
        }
        if (value > 0x10ffff) fault("bad escape", start);
        return value;
    }

    std::uint32_t bracket() {
        const std::size_t start = at_++;
        const bool negated = take('^');
        std::vector<CharacterRange> members;
        const std::size_t first = at_;
        while (true) {
            if (!more()) fault("unterminated character set", start);
            if (peek() == ']' && at_ != first) break;
            const std::size_t item = at_;
            const auto low = member(members);
            if (peek() != '-' || peek(1) == ']' || at_ + 1 >= text_.size()) {
                if (low) members.push_back({*low, *low});
                continue;
            }
            ++at_;
            const auto high = member(members);
            if (!low || !high || *high < *low) fault("bad character range", item);
            members.push_back({*low, *high});
        }
        ++at_;
        return add_set(std::move(members), negated);
    }
    // One character of a set, or nothing after the members of a class such as \d were added.
    std::optional<char32_t> member(std::vector<CharacterRange>& members) {
        if (peek() != '\\') return next_character(text_, at_);
        if (at_ + 1 >= text_.size()) fault("backslash at the end", at_);
        if (const auto named = named_class(peek(1))) {
            members.insert(members.end(), named->begin(), named->end());
            at_ += 2;
            return std::nullopt;
        }
        if (peek(1) == 'b') {
            at_ += 2;
            return U'\b';
        }
        return escaped_character();
    }

    std::uint32_t add(PatternStep step) {
        if (program_.steps.size() >= step_limit) too_large();
        step.next = static_cast<std::uint32_t>(program_.steps.size() + 1);
        program_.steps.push_back(step);
        return step.next - 1;
    }
    std::uint32_t end() const noexcept { return static_cast<std::uint32_t>(program_.steps.size()); }

    // Recursion is bounded by depth_limit, and all the work, also that which adds no step, by step_limit.
    void lay_out(std::uint32_t index) {
        if (++work_ > 4 * step_limit) too_large();
        const Node& node = nodes_[index];
        switch (node.kind) {
        case Node::Kind::empty: break;
        case Node::Kind::single: add(node.step); break;
        case Node::Kind::sequence:
            for (const std::uint32_t child : node.children) lay_out(child);
            break;
        case Node::Kind::group:
            if (node.number != 0 && node.number == marked_group_) {
                add({.kind = Step::mark, .other = 0});
                lay_out(node.children.front());
                add({.kind = Step::mark, .other = 1});
            } else {
                lay_out(node.children.front());
            }
            break;
        case Node::Kind::alternatives: {
            std::vector<std::uint32_t> jumps;
            for (std::size_t i = 0; i + 1 < node.children.size(); ++i) {
                const std::uint32_t split = add({.kind = Step::split});
                lay_out(node.children[i]);
                jumps.push_back(add({.kind = Step::jump}));
                program_.steps[split].other = end();
            }
            lay_out(node.children.back());
            for (const std::uint32_t jump : jumps) program_.steps[jump].next = end();
            break;
        }
        case Node::Kind::repeat: lay_out_repeat(node); break;
        }
    }
    void lay_out_repeat(const Node& node) {
        const std::uint32_t child = node.children.front();
        for (std::uint32_t i = 0; i < node.least; ++i) lay_out(child);
        const auto enter_or_leave = [&](std::uint32_t split, std::uint32_t leave) {
            program_.steps[split].other = leave;
            if (node.lazy) std::swap(program_.steps[split].next, program_.steps[split].other);
        };
        if (node.most == unbounded) {
            const std::uint32_t split = add({.kind = Step::split});
            lay_out(child);
            const std::uint32_t back = add({.kind = Step::jump});
            program_.steps[back].next = split;
            enter_or_leave(split, end());
            return;
        }
        std::vector<std::uint32_t> splits;
        for (std::uint32_t i = node.least; i < node.most; ++i) {
            splits.push_back(add({.kind = Step::split}));
            lay_out(child);
        }
        for (const std::uint32_t split : splits) enter_or_leave(split, end());
    }

    std::string_view text_;
    std::size_t prefix_;
    std::string_view shown_;
    std::string_view file_;
    std::string_view key_;
    std::size_t at_ = 0;
    std::uint32_t groups_ = 0;
    std::uint32_t marked_group_ = 0;
    std::size_t work_ = 0;
    std::vector<Node> nodes_;
    PatternProgram program_;
};

PEFT_ISA_DETAIL_END
