#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <thread>

struct CommandLine {
  std::string directory;
  std::size_t workers = 1;
  bool chaos = false;
};

/// Prints a message and exits if the command line is wrong or asks for help.
inline CommandLine parse_command_line(int argc, char** argv) {
  CommandLine result;
  if (const unsigned cores = std::thread::hardware_concurrency(); cores != 0) result.workers = cores;
  CLI::App app;
  app.footer(
      R"(Prints the SHA-256 of every regular file below DIR, sorted by path, in the format of sha256sum(1), so that
`sha256sum -c` can check it. Worker processes read and hash the files.

Exit status: 0 if every file was read; 1 if a file or directory could not be read; 2 if the command line is wrong;
130 after Ctrl-C.)");
  app.add_option("DIR", result.directory, "hash the files below this directory")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("-j,--jobs", result.workers, "worker processes")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_flag("--chaos", result.chaos, "kill, suspend and crash workers at random; the output is the same");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? 0 : 2);
  }
  return result;
}
