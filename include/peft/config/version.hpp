#pragma once
// The one place that holds the version; CMake reads these three lines.

#define PEFT_VERSION_MAJOR 0
#define PEFT_VERSION_MINOR 1
#define PEFT_VERSION_PATCH 0
