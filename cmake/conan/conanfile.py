import os
import re

from conan import ConanFile
from conan.tools.files import copy, load
from conan.tools.layout import basic_layout


class PeftConan(ConanFile):
    name = "peft"
    description = "Parameter-efficient fine-tuning (LoRA and its family), header-only C++20"
    license = "MIT"
    package_type = "header-library"
    requires = "nlohmann_json/[>=3.11 <4]"
    no_copy_source = True

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        text = load(self, os.path.join(self._root, "include", "peft", "config", "version.hpp"))
        self.version = ".".join(re.search(rf"#define PEFT_VERSION_{part} +(\d+)", text)[1] for part in ("MAJOR", "MINOR", "PATCH"))

    def export_sources(self):
        for pattern in ("include/*.hpp", "LICENSE"):
            copy(self, pattern, self._root, self.export_sources_folder)

    def layout(self):
        basic_layout(self, src_folder=".")

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        copy(self, "*.hpp", os.path.join(self.source_folder, "include"), os.path.join(self.package_folder, "include"))

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "peft")
        self.cpp_info.set_property("cmake_target_name", "peft::peft")
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
