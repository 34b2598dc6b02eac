#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <thread>

#include <asio/ip/address.hpp>
#include <asio/ip/tcp.hpp>

struct CommandLine {
  std::string address = "127.0.0.1";
  std::uint16_t port = 8080;
  std::size_t workers = 2;
  std::size_t memory = 512;    // MiB
  double deadline = 10;        // seconds
  double client_timeout = 30;  // seconds

  asio::ip::tcp::endpoint endpoint() const { return {asio::ip::make_address(address), port}; }
};

/// Prints a message and exits if the command line is wrong or asks for help.
inline CommandLine parse_command_line(int argc, char** argv) {
  CommandLine result;
  if (const unsigned cores = std::thread::hardware_concurrency(); cores != 0) result.workers = cores;
  CLI::App app(
      "An HTTP server whose requests run in worker processes: POST /hash, POST /thumbnail?size=N, GET /metrics, POST "
      "/reload, and GET / to watch it. SIGHUP reloads the workers, SIGTERM ends the server after its last request.");
  app.add_option("--address", result.address, "listen on this address")->check(CLI::ValidIPV4)->capture_default_str();
  app.add_option("--port", result.port, "listen on this port; 0: any free one")->capture_default_str();
  app.add_option("--workers", result.workers, "worker processes")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--memory", result.memory, "MiB of address space for each worker; 0: no limit")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--deadline", result.deadline, "seconds for each request in a worker")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  app.add_option("--client-timeout", result.client_timeout,
                 "seconds for a client to send a request, or to take an answer")
      ->check(CLI::Range(0.01, 3600.0))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error) == 0 ? 0 : 2);
  }
  return result;
}
