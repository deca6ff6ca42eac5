#pragma once
#include <peft/core/matrix.hpp>
#include <peft/core/scalar.hpp>
#include <peft/io/file.hpp>
#include <peft/io/json.hpp>
#include <peft/io/safetensors_header.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

PEFT_ISA_DETAIL_BEGIN

/// What the first bytes of something that is no tensor file remind of.
inline std::string_view looks_like(std::string_view start) {
    constexpr std::array<std::pair<std::string_view, std::string_view>, 10> known{{
        {"version https://git-lfs", "a Git LFS pointer (fetch the file itself with git lfs pull)"},
        {"<!DOCTYPE", "an HTML page"},
        {"<!doctype", "an HTML page"},
        {"<html", "an HTML page"},
        {"PK\x03\x04", "a zip archive, as torch.save writes it"},
        {"\x80\x02", "a pickle"},
        {"\x80\x04", "a pickle"},
        {"GGUF", "a GGUF file"},
        {"\x1f\x8b", "a gzip archive"},
        {"{", "JSON text"},
    }};
    for (const auto& [magic, what] : known)
        if (start.starts_with(magic)) return what;
    return {};
}

/// out[i] = the i-th number of `bytes`, stored as S, rounded once if T is smaller.
template <class T, class S> void convert_numbers(std::span<const std::byte> bytes, T* out) noexcept {
    for (std::size_t i = 0; i < bytes.size() / sizeof(S); ++i) {
        S value;
        std::memcpy(&value, bytes.data() + i * sizeof(S), sizeof(S));   // may be misaligned
        out[i] = round_to<T>(widen(value));
    }
}

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

inline std::string_view dtype_name(Dtype dtype) noexcept { return detail::dtype_rows[static_cast<std::size_t>(dtype)].name; }
/// Bits of one element; 4 and 6 for the types below a byte.
inline unsigned dtype_bits(Dtype dtype) noexcept { return detail::dtype_rows[static_cast<std::size_t>(dtype)].bits; }
/// Bytes of one element; 0 for the types below a byte.
inline std::size_t dtype_size(Dtype dtype) noexcept { return dtype_bits(dtype) / 8; }

namespace types {
template <class S> struct dtype_of;
template <> struct dtype_of<float> { static constexpr Dtype value = Dtype::F32; };
template <> struct dtype_of<double> { static constexpr Dtype value = Dtype::F64; };
template <> struct dtype_of<bfloat16> { static constexpr Dtype value = Dtype::BF16; };
template <> struct dtype_of<float16> { static constexpr Dtype value = Dtype::F16; };
template <> struct dtype_of<std::int8_t> { static constexpr Dtype value = Dtype::I8; };
template <> struct dtype_of<std::int16_t> { static constexpr Dtype value = Dtype::I16; };
template <> struct dtype_of<std::int32_t> { static constexpr Dtype value = Dtype::I32; };
template <> struct dtype_of<std::int64_t> { static constexpr Dtype value = Dtype::I64; };
template <> struct dtype_of<std::uint8_t> { static constexpr Dtype value = Dtype::U8; };
template <> struct dtype_of<std::uint16_t> { static constexpr Dtype value = Dtype::U16; };
template <> struct dtype_of<std::uint32_t> { static constexpr Dtype value = Dtype::U32; };
template <> struct dtype_of<std::uint64_t> { static constexpr Dtype value = Dtype::U64; };
}  // namespace types

/// The Dtype that numbers of type S are stored in.
template <class S> constexpr Dtype dtype_of() noexcept { return types::dtype_of<S>::value; }

/// A safetensors file, open for reading. Opening reads the header and checks all of it against the length of the file, so
/// that no tensor can be found broken later; the data stay on disk until read. Stricter than the reference reader:
/// a name, metadata key or field given twice is refused, and so is an entry that is no object. Accepted on reading:
/// white space before the header, unknown fields in an entry (not looked at), "__metadata__": null, empty names, any
/// alignment, at most 1024 dimensions. Numbers are not looked at. const calls may run in several threads.
/// Throws FormatError naming file, tensor, what was expected and found; FileError where the system refuses.
/// Source of the format: huggingface/safetensors, README.md and safetensors/src/tensor.rs.
class SafetensorsFile {
public:
    explicit SafetensorsFile(std::string path) : file_(std::move(path)) {
        const std::string header = read_header();
        detail::HeaderReader reader(file_.path());
        detail::read_json(header, {file_.path(), "header"}, reader);
        tensors_ = std::move(reader.tensors);
        metadata_ = std::move(reader.metadata);
        check_names();
        check_layout();
    }

    const std::string& path() const noexcept { return file_.path(); }
    /// Sorted by name.
    std::span<const TensorInfo> tensors() const noexcept { return tensors_; }
    /// Null if there is none of that name.
    const TensorInfo* find(std::string_view name) const noexcept {
        const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                         [](const TensorInfo& info, std::string_view wanted) { return info.name < wanted; });
        return at != tensors_.end() && at->name == name ? &*at : nullptr;
    }
    /// The same, but it must be there.
    const TensorInfo& at(std::string_view name) const {
        const TensorInfo* info = find(name);
        if (info == nullptr) {
            throw FormatError("the file has no such tensor", {.file = path(), .subject = detail::tensor_subject(name)});
        }
        return *info;
    }
    Metadata metadata() const {
        Metadata result;
        for (std::size_t i = 0; i < metadata_.pairs(); ++i) result.emplace(metadata_.part(2 * i), metadata_.part(2 * i + 1));
        return result;
    }

    /// The bytes of a tensor of this file; `out` has info.byte_count() bytes, else ShapeError.
    void read(const TensorInfo& info, std::span<std::byte> out) const {
        if (out.size() != info.byte_count()) {
            throw ShapeError("wrong size of the memory for a tensor",
                             {.file = path(),
                              .subject = detail::tensor_subject(info.name),
                              .expected = std::to_string(info.byte_count()) + " bytes",
                              .found = std::to_string(out.size())});
        }
        file_.read(data_begin_ + info.begin, out);
    }
    std::vector<std::byte> read_bytes(std::string_view name) const {
        const TensorInfo& info = at(name);
        std::vector<std::byte> bytes(static_cast<std::size_t>(info.byte_count()));
        read(info, bytes);
        return bytes;
    }

    /// The numbers of a tensor of any shape, row-major; `out` has as many elements, else ShapeError. Floating-point T:
    /// from F64, F32, F16 or BF16, rounded once, beyond the range of T to infinity; NaN stays NaN. Other T: only from the
    /// dtype of T itself. Any other dtype is a FormatError.
    template <class T> void read_values(const TensorInfo& info, std::span<T> out) const {
        if (info.dtype == dtype_of<T>()) return read(info, std::as_writable_bytes(out));
        if constexpr (StorageScalar<T>) {
            switch (info.dtype) {
            case Dtype::F64: return read_as<T, double>(info, out);
            case Dtype::F32: return read_as<T, float>(info, out);
            case Dtype::F16: return read_as<T, float16>(info, out);
            case Dtype::BF16: return read_as<T, bfloat16>(info, out);
            default: break;
            }
        }
        throw FormatError("this dtype cannot be used here",
                          {.file = path(),
                           .subject = detail::tensor_subject(info.name),
                           .expected = StorageScalar<T> ? std::string("F64, F32, F16 or BF16") : std::string(dtype_name(dtype_of<T>())),
                           .found = std::string(dtype_name(info.dtype))});
    }
    /// A tensor as a matrix: (rows x cols), a vector as (1 x n), a scalar as (1 x 1); more dimensions are a FormatError.
    template <class T> Matrix<T> read_matrix(std::string_view name) const { return read_matrix<T>(at(name)); }
    template <class T> Matrix<T> read_matrix(const TensorInfo& info) const {
        if (info.shape.size() > 2) {
            throw FormatError("the tensor is no matrix", {.file = path(),
                                                          .subject = detail::tensor_subject(info.name),
                                                          .expected = "at most 2 dimensions",
                                                          .found = detail::dims_text(info.shape)});
        }
        const std::size_t rows = info.shape.size() < 2 ? 1 : info.shape[0];
        const std::size_t cols = info.shape.empty() ? 1 : info.shape.back();
        Matrix<T> result(rows, cols);
        read_values<T>(info, result.flat());
        return result;
    }

private:
    std::string read_header() {
        const std::uint64_t size = file_.size();
        std::array<std::byte, 24> start{};
        const auto available = static_cast<std::size_t>(std::min<std::uint64_t>(size, start.size()));
        file_.read(0, std::span(start).first(available));
        const std::string_view text(reinterpret_cast<const char*>(start.data()), available);
        if (size < 8) header_fault("the file is too short", "at least 8 bytes", std::to_string(size), text);
        std::uint64_t length = 0;
        std::memcpy(&length, start.data(), 8);
        if (length > detail::header_limit) {
            header_fault("the declared length of the header is too large", "at most " + std::to_string(detail::header_limit),
                         std::to_string(length), text);
        }
        if (length > size - 8) {
            header_fault("the header reaches beyond the end of the file", std::to_string(length) + " bytes of header",
                         std::to_string(size - 8), text);
        }
        data_begin_ = 8 + length;
        std::string header(static_cast<std::size_t>(length), '\0');
        file_.read(8, std::as_writable_bytes(std::span(header)));
        return header;
    }
    [[noreturn]] PEFT_COLD void header_fault(std::string what, std::string expected, std::string found, std::string_view start) const {
        if (const std::string_view other = detail::looks_like(start); !other.empty()) what.append("; this looks like ").append(other);
        throw FormatError(what, {.file = path(), .expected = std::move(expected), .found = std::move(found)});
    }

    void check_names() {
        std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
        const auto twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                              [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
        if (twice != tensors_.end()) {
            throw FormatError("the tensor is given twice", {.file = path(), .subject = detail::tensor_subject(twice->name)});
        }
        std::vector<std::uint32_t> order(metadata_.pairs());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(2 * i);
        std::sort(order.begin(), order.end(), [&](auto a, auto b) { return metadata_.part(a) < metadata_.part(b); });
        const auto again = std::adjacent_find(order.begin(), order.end(), [&](auto a, auto b) { return metadata_.part(a) == metadata_.part(b); });
        if (again != order.end()) {
            throw FormatError("the key \"" + printable(metadata_.part(*again), 100) + "\" is given twice",
                              {.file = path(), .subject = std::string(detail::metadata_name)});
        }
    }
    // Every byte of the data area belongs to exactly one tensor.
    void check_layout() const {
        std::vector<std::uint32_t> order(tensors_.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::uint32_t>(i);
        std::sort(order.begin(), order.end(), [&](auto a, auto b) {
            const TensorInfo& x = tensors_[a];
            const TensorInfo& y = tensors_[b];
            return std::tie(x.begin, x.end, a) < std::tie(y.begin, y.end, b);
        });
        const std::uint64_t available = file_.size() - data_begin_;
        std::uint64_t next = 0;
        for (const std::uint32_t index : order) {
            const TensorInfo& info = tensors_[index];
            const auto fault = [&](std::string_view what, std::string expected, std::string found) {
                throw FormatError(what, {.file = path(),
                                         .subject = detail::tensor_subject(info.name),
                                         .expected = std::move(expected),
                                         .found = std::move(found)});
            };
            if (info.begin != next) {
                fault(info.begin < next ? "the tensor overlaps another" : "unused bytes lie before the tensor",
                      "begin at " + std::to_string(next), std::to_string(info.begin));
            }
            const std::uint64_t needed = detail::checked_byte_count(path(), info.name, info.dtype, info.shape);
            if (needed != info.byte_count()) {
                fault("shape and data_offsets disagree",
                      std::to_string(needed) + " bytes for " + std::string(dtype_name(info.dtype)) + " " + detail::dims_text(info.shape),
                      std::to_string(info.byte_count()));
            }
            if (info.end > available) {
                fault("the file ends before the tensor does", std::to_string(info.end) + " bytes of data", std::to_string(available));
            }
            next = info.end;
        }
        if (next != available) {
            throw FormatError("bytes follow the last tensor", {.file = path(),
                                                               .expected = std::to_string(next) + " bytes of data",
                                                               .found = std::to_string(available) + ", " +
                                                                        std::to_string(available - next) + " too many"});
        }
    }
    template <class T, class S> void read_as(const TensorInfo& info, std::span<T> out) const {
        const std::uint64_t count = info.byte_count() / sizeof(S);
        if (out.size() != count) {
            throw ShapeError("wrong size of the memory for a tensor", {.file = path(),
                                                                       .subject = detail::tensor_subject(info.name),
                                                                       .expected = std::to_string(count) + " elements",
                                                                       .found = std::to_string(out.size())});
        }
        constexpr std::size_t chunk = std::size_t{1} << 16;   // elements: a read is then long enough to cost nothing
        std::vector<std::byte> bytes(std::min(out.size(), chunk) * sizeof(S));
        for (std::size_t done = 0; done < out.size(); done += chunk) {
            const auto part = std::span(bytes).first(std::min(out.size() - done, chunk) * sizeof(S));
            file_.read(data_begin_ + info.begin + done * sizeof(S), part);
            detail::convert_numbers<T, S>(part, out.data() + done);
        }
    }

    InputFile file_;
    std::uint64_t data_begin_ = 0;
    std::vector<TensorInfo> tensors_;
    detail::PackedPairs metadata_;
};

/// Writes a safetensors file as the reference writer lays it out: metadata first, tensors by falling size of an element and rising name,
/// the header padded with spaces to 8 bytes. Equal input gives equal bytes. `out` still has to be committed.
/// Throws FormatError, before anything is written, for a name given twice, bytes that do not fit dtype and shape, names
/// that are not UTF-8, and a header above 100 MB.
inline void write_safetensors(AtomicFile& out, std::span<const TensorData> tensors, const Metadata& metadata = {{"format", "pt"}}) {
    std::vector<const TensorData*> order;
    order.reserve(tensors.size());
    for (const TensorData& tensor : tensors) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const TensorData* a, const TensorData* b) { return a->name < b->name; });
    for (std::size_t i = 0; i < order.size(); ++i) {
        const TensorData& tensor = *order[i];
        const ErrorContext context{.file = out.path(), .subject = detail::tensor_subject(tensor.name)};
        if (i != 0 && order[i - 1]->name == tensor.name) throw FormatError("the tensor is given twice", context);
        if (tensor.name == detail::metadata_name) throw FormatError("no tensor can have this name", context);
        if (detail::invalid_utf8(tensor.name)) throw FormatError("the name of a tensor must be UTF-8", context);
        const std::uint64_t needed = detail::checked_byte_count(out.path(), tensor.name, tensor.dtype, tensor.shape);
        if (needed != tensor.bytes.size()) {
            throw FormatError("shape and bytes of the tensor disagree",
                              {.file = out.path(),
                               .subject = detail::tensor_subject(tensor.name),
                               .expected = std::to_string(needed) + " bytes for " + std::string(dtype_name(tensor.dtype)) + " " +
                                           detail::dims_text(tensor.shape),
                               .found = std::to_string(tensor.bytes.size())});
        }
    }
    std::stable_sort(order.begin(), order.end(), [](const TensorData* a, const TensorData* b) { return dtype_bits(a->dtype) > dtype_bits(b->dtype); });

    std::string header = "{";
    if (!metadata.empty()) {
        header += "\"__metadata__\":{";
        for (const auto& [key, value] : metadata) {
            if (header.back() != '{') header += ',';
            detail::append_json_string(header, key, false);
            header += ':';
            detail::append_json_string(header, value, false);
        }
        header += '}';
    }
    std::uint64_t offset = 0;
    for (const TensorData* tensor : order) {
        if (header.size() > 1) header += ',';
        detail::append_json_string(header, tensor->name, false);
        header.append(":{\"dtype\":\"").append(dtype_name(tensor->dtype)).append("\",\"shape\":[");
        for (std::size_t i = 0; i < tensor->shape.size(); ++i) header.append(i == 0 ? "" : ",").append(std::to_string(tensor->shape[i]));
        header.append("],\"data_offsets\":[").append(std::to_string(offset)).append(",");
        offset += tensor->bytes.size();
        header.append(std::to_string(offset)).append("]}");
    }
    header += '}';
    header.append((8 - header.size() % 8) % 8, ' ');
    if (header.size() > detail::header_limit) {
        throw FormatError("the header is too large", {.file = out.path(),
                                                      .expected = "at most " + std::to_string(detail::header_limit) + " bytes",
                                                      .found = std::to_string(header.size())});
    }

    const std::uint64_t length = header.size();
    out.write(std::as_bytes(std::span(&length, 1)));
    out.write(header);
    for (const TensorData* tensor : order) out.write(tensor->bytes);
}

/// The same to a path, which holds the old file or the whole new one at any time; it may be the one tensors are read from.
inline void write_safetensors(const std::string& path, std::span<const TensorData> tensors, const Metadata& metadata = {{"format", "pt"}}) {
    AtomicFile out(path);
    write_safetensors(out, tensors, metadata);
    out.commit();
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
