unsigned long odr_plain(const char* folder);
unsigned long odr_wide(const char* folder);

int main(int argc, char** argv) { return argc == 3 && odr_plain(argv[1]) != 0 && odr_wide(argv[2]) != 0 ? 0 : 1; }
