// Boost.Process v2 on Boost.Asio, with its default launcher, which forks, and with vfork_launcher, which is faster.
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/readable_pipe.hpp>
#include <boost/asio/writable_pipe.hpp>
#include <boost/optional.hpp>
#include <boost/type_traits/decay.hpp>
#include <boost/type_traits/is_convertible.hpp>

// The headers of Boost.Process 1.81 use the three headers above without including them.
#include <boost/process/v2/posix/default_launcher.hpp>
#include <boost/process/v2/posix/vfork_launcher.hpp>
#include <boost/process/v2/process.hpp>
#include <boost/process/v2/stdio.hpp>
#include <boost/version.hpp>
#include <optional>

#include "common.hpp"

namespace {

namespace asio = boost::asio;
namespace process = boost::process::v2;
using Failure = boost::system::error_code;

enum class Until { first_byte, reaped_in_the_loop, reaped_by_wait };

/// Runs one child. Its stdin is a pipe, whose end makes it exit. Its stderr is read.
template <class Launcher>
double once(const std::string& program, const std::vector<std::string>& arguments, Until until) {
  static asio::io_context context;
  asio::writable_pipe in(context);
  asio::readable_pipe err(context);
  auto start = peers::Clock::now();
  Launcher launch;
  auto child = launch(context, program, arguments, process::process_stdio{in, nullptr, err});

  char buffer[64];
  bool answered = false;
  std::optional<double> taken;
  err.async_read_some(asio::buffer(buffer), [&](Failure failure, std::size_t) {
    answered = !failure;
    if (until == Until::first_byte) taken = peers::microseconds(peers::Clock::now() - start);
  });
  context.run();
  context.restart();
  if (!answered) throw std::runtime_error("the child wrote nothing");
  if (until == Until::first_byte) {
    in.close();
    child.wait();
    return *taken;
  }

  if (until == Until::reaped_in_the_loop) {
    child.async_wait([&](Failure, int) { taken = peers::microseconds(peers::Clock::now() - start); });
    context.poll();  // the wait has begun now
    start = peers::Clock::now();
    child.request_exit();
    context.run();
    context.restart();
  } else {
    start = peers::Clock::now();
    child.request_exit();
    child.wait();
    taken = peers::microseconds(peers::Clock::now() - start);
  }
  return taken.value();
}

/// The program executed again: writes a byte to stderr once its loop runs, and returns when stdin ends.
int run_loop() {
  asio::io_context context;
  asio::posix::stream_descriptor in(context, 0);
  char buffer[64];
  in.async_read_some(asio::buffer(buffer), [](Failure, std::size_t) {});
  asio::post(context, [] { bench::send_byte(2); });
  context.run();
  return 0;
}

template <class Launcher>
void add(std::vector<peers::Figure>& figures, const std::string& peer, const std::string& launcher) {
  const std::string note = launcher + ", pipes read in the loop; Boost " BOOST_LIB_VERSION;
  peers::add_spawn(figures, peer, note, [] { return once<Launcher>(peers::tiny_program(), {}, Until::first_byte); });
  figures.push_back({"T-3", peer, note, [](double seconds) {
                       return peers::median_of(seconds, [] {
                         return once<Launcher>("/proc/self/exe", {"--internal", "loop"}, Until::first_byte);
                       });
                     }});
}

void add_reap(std::vector<peers::Figure>& figures, const std::string& peer, const std::string& note, Until until) {
  figures.push_back({"T-4", peer, note, [until](double seconds) {
                       return peers::median_of(seconds, [until] {
                         return once<process::posix::default_launcher>(peers::tiny_program(), {"stay"}, until);
                       });
                     }});
}

}  // namespace

int main(int argc, char** argv) {
  const std::string peer = "boost-process-v2";
  std::vector<peers::Figure> figures;
  add<process::posix::default_launcher>(figures, peer, "default launcher, which forks");
  add_reap(figures, peer, "async_wait by pidfd in the loop; Boost " BOOST_LIB_VERSION, Until::reaped_in_the_loop);
  add<process::posix::vfork_launcher>(figures, peer + "-vfork",
                                      "vfork_launcher (notifies Asio of a fork in memory that the parent shares)");
  add_reap(figures, peer + "-wait", "wait(), which blocks the thread; Boost " BOOST_LIB_VERSION, Until::reaped_by_wait);
  return peers::run_main(argc, argv, figures, {{"loop", [](auto&) { return run_loop(); }}});
}
