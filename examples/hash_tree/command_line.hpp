#pragma once

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <getopt.h>
#include <iostream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>

struct CommandLine {
  std::string directory;
  std::size_t workers = 1;
  bool chaos = false;
};

inline constexpr std::string_view usage =
    R"(Usage: hash_tree [-j N] [--chaos] DIR

Prints the SHA-256 of every regular file below DIR, sorted by path, in the format of sha256sum(1), so that
`sha256sum -c` can check it. Worker processes read and hash the files.

  -j, --jobs N   use N workers, 1 to 256 (default: one for each core)
      --chaos    kill, suspend and crash workers at random; the output is the same
  -h, --help     print this text

Exit status: 0 if every file was read; 1 if a file or directory could not be read; 2 if the command line is wrong;
130 after Ctrl-C.
)";

[[noreturn]] inline void refuse_command_line(const std::string& why) {
  std::cerr << "hash_tree: " << why << "\nTry 'hash_tree --help'.\n";
  std::exit(2);
}

/// Prints a message and exits if the command line is wrong or asks for help.
inline CommandLine parse_command_line(int argc, char** argv) {
  CommandLine result;
  if (const unsigned cores = std::thread::hardware_concurrency(); cores != 0) result.workers = cores;

  static const option long_options[] = {{"jobs", required_argument, nullptr, 'j'},
                                        {"chaos", no_argument, nullptr, 'c'},
                                        {"help", no_argument, nullptr, 'h'},
                                        {nullptr, 0, nullptr, 0}};
  opterr = 0;
  for (int found; (found = getopt_long(argc, argv, ":j:h", long_options, nullptr)) != -1;) {
    switch (found) {
      case 'j': {
        const std::string_view text = optarg;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), result.workers);
        if (error != std::errc() || end != text.data() + text.size() || result.workers < 1 || result.workers > 256)
          refuse_command_line("'" + std::string(text) + "' is not a number of workers from 1 to 256");
        break;
      }
      case 'c': result.chaos = true; break;
      case 'h': std::cout << usage; std::exit(0);
      case ':': refuse_command_line("option '" + std::string(argv[optind - 1]) + "' needs a value");
      default:
        refuse_command_line("unknown option '" +
                            (optopt != 0 ? std::string{'-', static_cast<char>(optopt)} : argv[optind - 1]) + "'");
    }
  }

  if (optind == argc) refuse_command_line("missing DIR");
  if (optind + 1 < argc) refuse_command_line("unexpected argument '" + std::string(argv[optind + 1]) + "'");
  result.directory = argv[optind];
  std::error_code error;
  if (!std::filesystem::is_directory(result.directory, error))
    refuse_command_line(result.directory + ": " + (error ? error.message() : "not a directory"));
  return result;
}
