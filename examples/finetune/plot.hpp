#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace finetune {

struct Curve {
    std::string name;
    std::string color;                              ///< as in SVG: "#0072b2"
    std::vector<std::pair<double, double>> points;  ///< (x, y)
};

struct Plot {
    std::string title;
    std::string x_label;
    std::string y_label;
    std::vector<Curve> curves;
};

/// Writes the curves as an SVG picture with axes, ticks and a legend. Throws std::runtime_error if the file cannot be written.
void write_svg(const std::filesystem::path& file, const Plot& plot);

}  // namespace finetune
