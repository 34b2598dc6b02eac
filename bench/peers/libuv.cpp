// libuv: uv_spawn on its loop, with pipes that libuv creates.
#include <optional>
#include <uv.h>

#include "common.hpp"

namespace {

void check(int answer, const char* what) {
  if (answer < 0) throw std::runtime_error(std::string(what) + ": " + uv_strerror(answer));
}

/// Runs one child at a time on the default loop. Its stdin is a pipe, whose end makes it exit. Its stderr is read.
class Child {
 public:
  enum class Until { first_byte, reaped_after_sigterm };

  double run(std::vector<std::string> words, Until until) {
    until_ = until;
    taken_.reset();
    uv_pipe_init(&loop_, &in_, 0);
    uv_pipe_init(&loop_, &err_, 0);
    uv_stdio_container_t stdio[3];
    stdio[0].flags = static_cast<uv_stdio_flags>(UV_CREATE_PIPE | UV_READABLE_PIPE);
    stdio[0].data.stream = reinterpret_cast<uv_stream_t*>(&in_);
    stdio[1].flags = UV_IGNORE;
    stdio[2].flags = static_cast<uv_stdio_flags>(UV_CREATE_PIPE | UV_WRITABLE_PIPE);
    stdio[2].data.stream = reinterpret_cast<uv_stream_t*>(&err_);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    uv_process_options_t options{};
    options.file = arguments[0];
    options.args = arguments.data();
    options.stdio = stdio;
    options.stdio_count = 3;
    options.exit_cb = [](uv_process_t* process, std::int64_t, int) { static_cast<Child*>(process->data)->on_exit(); };
    process_.data = err_.data = this;

    start_ = peers::Clock::now();
    check(uv_spawn(&loop_, &process_, &options), "uv_spawn");
    check(
        uv_read_start(
            reinterpret_cast<uv_stream_t*>(&err_),
            [](uv_handle_t* handle, std::size_t, uv_buf_t* buffer) {
              *buffer = uv_buf_init(static_cast<Child*>(handle->data)->buffer_, sizeof buffer_);
            },
            [](uv_stream_t* stream, ssize_t got, const uv_buf_t*) { static_cast<Child*>(stream->data)->on_read(got); }),
        "uv_read_start");
    uv_run(&loop_, UV_RUN_DEFAULT);
    if (!taken_) throw std::runtime_error("the child wrote nothing");
    return *taken_;
  }

 private:
  void on_read(ssize_t got) {
    if (got < 0) return uv_close(reinterpret_cast<uv_handle_t*>(&err_), nullptr);
    if (got == 0) return;
    if (until_ == Until::first_byte) {
      taken_ = peers::microseconds(peers::Clock::now() - start_);
      uv_close(reinterpret_cast<uv_handle_t*>(&in_), nullptr);
    } else {
      start_ = peers::Clock::now();
      uv_process_kill(&process_, SIGTERM);
    }
  }
  void on_exit() {
    if (until_ == Until::reaped_after_sigterm) {
      taken_ = peers::microseconds(peers::Clock::now() - start_);
      uv_close(reinterpret_cast<uv_handle_t*>(&in_), nullptr);
    }
    uv_close(reinterpret_cast<uv_handle_t*>(&process_), nullptr);
  }

  uv_loop_t& loop_ = *uv_default_loop();
  uv_pipe_t in_{}, err_{};
  uv_process_t process_{};
  Until until_{};
  peers::Clock::time_point start_;
  std::optional<double> taken_;
  char buffer_[64];
};

double once(std::vector<std::string> words, Child::Until until) {
  static Child child;
  return child.run(std::move(words), until);
}

/// The program executed again: writes a byte to stderr once its loop runs, and returns when stdin ends.
int run_loop() {
  uv_loop_t* loop = uv_default_loop();
  uv_pipe_t in;
  uv_pipe_init(loop, &in, 0);
  uv_pipe_open(&in, 0);
  static char buffer[64];
  uv_read_start(
      reinterpret_cast<uv_stream_t*>(&in),
      [](uv_handle_t*, std::size_t, uv_buf_t* into) { *into = uv_buf_init(buffer, sizeof buffer); },
      [](uv_stream_t* stream, ssize_t got, const uv_buf_t*) {
        if (got < 0) uv_close(reinterpret_cast<uv_handle_t*>(stream), nullptr);
      });
  uv_timer_t now;
  uv_timer_init(loop, &now);
  uv_timer_start(
      &now,
      [](uv_timer_t* timer) {
        bench::send_byte(2);
        uv_close(reinterpret_cast<uv_handle_t*>(timer), nullptr);
      },
      0, 0);
  return uv_run(loop, UV_RUN_DEFAULT);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string peer = "libuv", note = std::string("uv_spawn with UV_CREATE_PIPE, which is a socket pair; libuv ") +
                                           uv_version_string();
  std::vector<peers::Figure> figures;
  peers::add_spawn(figures, peer, note, [] { return once({peers::tiny_program()}, Child::Until::first_byte); });
  figures.push_back({"T-3", peer, note, [](double seconds) {
                       return peers::median_of(seconds, [] {
                         return once({"/proc/self/exe", "--internal", "loop"}, Child::Until::first_byte);
                       });
                     }});
  figures.push_back({"T-4", peer, note, [](double seconds) {
                       return peers::median_of(seconds, [] {
                         return once({peers::tiny_program(), "stay"}, Child::Until::reaped_after_sigterm);
                       });
                     }});
  return peers::run_main(argc, argv, figures, {{"loop", [](auto&) { return run_loop(); }}});
}
