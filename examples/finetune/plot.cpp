#include "plot.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <stdexcept>

namespace finetune {
namespace {

constexpr double width = 800, height = 480;
constexpr double left = 72, right = 130, top = 48, bottom = 60;   // margins; the legend stands in the right one

/// A number as text, without the locale.
std::string number(double value, int digits = 1) {
    std::array<char, 64> buffer{};
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed, digits);
    return {buffer.data(), end.ptr};
}

/// 1, 2 or 5 times a power of ten, so that about six ticks fill the range.
double tick_step(double range) {
    const double raw = range / 6;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    for (const double factor : {1.0, 2.0, 5.0}) {
        if (raw <= factor * power) return factor * power;
    }
    return 10 * power;
}

struct Axis {
    double first = 0, last = 1, step = 1;
    double from = 0, to = 1;   ///< pixels

    /// Covers [low, high]; `whole` widens the axis to whole ticks.
    static Axis over(double low, double high, bool whole, double from, double to) {
        if (!(high > low)) high = low + 1;
        const double step = tick_step(high - low);
        if (whole) {
            low = std::floor(low / step + 1e-9) * step;
            high = std::ceil(high / step - 1e-9) * step;
        }
        return {low, high, step, from, to};
    }
    double pixel(double value) const { return from + (value - first) / (last - first) * (to - from); }
    int digits() const { return std::max(0, static_cast<int>(-std::floor(std::log10(step) + 1e-9))); }
    int ticks() const { return static_cast<int>(std::floor((last - first) / step + 1e-9)); }
};

std::string escaped(const std::string& text) {
    std::string result;
    for (const char c : text) {
        if (c == '<') result += "&lt;";
        else if (c == '&') result += "&amp;";
        else result += c;
    }
    return result;
}

std::string text(double x, double y, const std::string& words, const std::string& attributes = "") {
    return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + escaped(words) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, const std::string& color, double thickness = 1) {
    return "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) + "\" stroke=\"" + color +
           "\" stroke-width=\"" + number(thickness) + "\"/>\n";
}

std::string axes(const Axis& x, const Axis& y) {
    std::string svg;
    for (int i = 0; i <= y.ticks(); ++i) {
        const double value = y.first + i * y.step;
        svg += line(x.from, y.pixel(value), x.to, y.pixel(value), "#e4e4e4");
        svg += text(x.from - 8, y.pixel(value) + 4, number(value, y.digits()), "text-anchor=\"end\"");
    }
    for (int i = 0; i <= x.ticks(); ++i) {
        const double value = x.first + i * x.step;
        svg += line(x.pixel(value), y.from, x.pixel(value), y.from + 5, "#333333");
        svg += text(x.pixel(value), y.from + 20, number(value, x.digits()), "text-anchor=\"middle\"");
    }
    return svg + line(x.from, y.from, x.to, y.from, "#333333") + line(x.from, y.from, x.from, y.to, "#333333");
}

std::string curve_path(const Curve& curve, const Axis& x, const Axis& y) {
    std::string points;
    for (const auto& [at, value] : curve.points) points += number(x.pixel(at)) + "," + number(y.pixel(value)) + " ";
    return "<polyline fill=\"none\" stroke=\"" + curve.color + "\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"" + points + "\"/>\n";
}

/// Names at the right, in the order in which the curves end, each at its curve's height where there is room.
std::string legend(const std::vector<Curve>& curves, const Axis& x, const Axis& y) {
    std::vector<std::pair<double, const Curve*>> places;
    for (const Curve& curve : curves) {
        if (!curve.points.empty()) places.emplace_back(y.pixel(curve.points.back().second), &curve);
    }
    std::stable_sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    constexpr double gap = 18;
    for (std::size_t i = 1; i < places.size(); ++i) places[i].first = std::max(places[i].first, places[i - 1].first + gap);
    double limit = y.from;   // and back up, where they ran out of the picture
    for (std::size_t i = places.size(); i-- > 0; limit -= gap) places[i].first = std::min(places[i].first, limit);
    std::string svg;
    for (const auto& [place, curve] : places) {
        const double end = y.pixel(curve->points.back().second);
        svg += line(x.to + 2, end, x.to + 14, place, curve->color);
        svg += line(x.to + 14, place, x.to + 30, place, curve->color, 3);
        svg += text(x.to + 36, place + 4, curve->name, "fill=\"" + curve->color + "\" font-weight=\"bold\"");
    }
    return svg;
}

}  // namespace

void write_svg(const std::filesystem::path& file, const Plot& plot) {
    std::array<double, 4> range{1e300, -1e300, 1e300, -1e300};
    for (const Curve& curve : plot.curves) {
        for (const auto& [x, y] : curve.points) range = {std::min(range[0], x), std::max(range[1], x), std::min(range[2], y), std::max(range[3], y)};
    }
    if (range[0] > range[1]) range = {0, 1, 0, 1};   // nothing to show: empty axes
    const Axis x = Axis::over(range[0], range[1], false, left, width - right);
    const Axis y = Axis::over(range[2], range[3], true, height - bottom, top);

    std::string svg = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width, 0) + " " + number(height, 0) + "\" width=\"" + number(width, 0) +
                      "\" height=\"" + number(height, 0) + "\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"13\" fill=\"#333333\">\n";
    svg += "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
    svg += text((left + width - right) / 2, 28, plot.title, "text-anchor=\"middle\" font-size=\"17\"");
    svg += axes(x, y);
    svg += text((left + width - right) / 2, height - 16, plot.x_label, "text-anchor=\"middle\"");
    const std::string middle = number((top + height - bottom) / 2);
    svg += text(20, (top + height - bottom) / 2, plot.y_label, "text-anchor=\"middle\" transform=\"rotate(-90 20 " + middle + ")\"");
    for (const Curve& curve : plot.curves) svg += curve_path(curve, x, y);
    svg += legend(plot.curves, x, y) + "</svg>\n";

    std::ofstream out(file, std::ios::binary);
    out << svg;
    out.close();
    if (!out) throw std::runtime_error("cannot write " + file.string());
}

}  // namespace finetune
