#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utility>

#include <drover/os/command.hpp>
#include <drover/os/detail/line_handler.hpp>
#include <drover/os/fd.hpp>

namespace drover::inline v1::detail {

/// Cuts bytes into lines and keeps the latest of them.
class LineBuffer {
 public:
  void append(std::string_view bytes) {
    while (!bytes.empty()) {
      const std::size_t length = text_.size() - last_line_;
      if (length == max_line && bytes.front() != '\n') end_line();
      const std::size_t room = std::max<std::size_t>(max_line - (text_.size() - last_line_), 1);
      const std::string_view piece = bytes.substr(0, room);
      const std::size_t end = piece.find('\n');
      text_.append(piece.substr(0, end));
      if (end != std::string_view::npos) end_line();
      bytes.remove_prefix(end == std::string_view::npos ? piece.size() : end + 1);
    }
    drop_oldest();
  }

  /// An unfinished last line counts from now on.
  void end_of_input() {
    if (text_.size() != last_line_) end_line();
    drop_oldest();
  }

  bool has_lines() const noexcept { return last_line_ != first_ || dropped_ != 0; }

  /// The whole lines; an unfinished one stays.
  LineSource::Batch take() {
    std::string unfinished = text_.substr(last_line_);
    text_.resize(last_line_);
    text_.erase(0, first_);
    first_ = last_line_ = 0;
    return {.text = std::exchange(text_, std::move(unfinished)), .dropped = std::exchange(dropped_, 0)};
  }

  void lose_everything() noexcept {
    text_ = {};
    first_ = last_line_ = 0;
    ++dropped_;
  }

 private:
  void end_line() {
    text_.push_back('\n');
    last_line_ = text_.size();
  }

  void drop_oldest() {
    while (last_line_ - first_ > max_pending_lines) {
      first_ = text_.find('\n', first_) + 1;
      ++dropped_;
    }
    if (first_ < max_pending_lines) return;
    text_.erase(0, first_);
    last_line_ -= first_;
    first_ = 0;
  }

  std::string text_;           // lines, each ended by '\n', then an unfinished one
  std::size_t first_ = 0;      // where the first line that is kept begins
  std::size_t last_line_ = 0;  // where the unfinished one begins
  std::size_t dropped_ = 0;
};

/// The reading end of a child's stdout or stderr. Lock order: a child's, this one's, the handler's, the home's.
class LineReader final : public LineSource, public std::enable_shared_from_this<LineReader> {
 public:
  LineReader(UniqueFd pipe, std::shared_ptr<LineTarget> target) : pipe_(std::move(pipe)), target_(std::move(target)) {}

  /// For watching, until closed.
  int fd() const noexcept { return pipe_.get(); }
  bool open() noexcept {
    const std::lock_guard held(mutex_);
    return pipe_.ours();
  }

  /// Reads what is there, within bounds. False once there is nothing more to come; the caller stops watching and
  /// closes.
  bool read_some() noexcept {
    const std::lock_guard held(mutex_);
    return !pipe_ || read(read_at_once);
  }

  /// The process has ended: reads what is in the pipe now, and no more, however fast others may write to it.
  void read_rest() noexcept {
    const std::lock_guard held(mutex_);
    int left = 0;
    if (pipe_.ours() && ::ioctl(pipe_.get(), FIONREAD, &left) == 0 && left > 0) read(static_cast<std::size_t>(left));
  }

  /// False if the handler could not be told for want of memory; the caller comes again.
  bool announced() noexcept {
    const std::lock_guard held(mutex_);
    if (unannounced_) announce();
    return !unannounced_;
  }

  /// From now on what comes is read and goes nowhere, what waits for the handler too.
  void silence() noexcept {
    std::shared_ptr<LineTarget> gone;  // destroyed without the lock
    const std::lock_guard held(mutex_);
    gone = std::move(target_);
    buffer_ = {};
  }

  /// Calls `unwatch(fd)` first, once.
  template <class Unwatch>
  void close(Unwatch unwatch) noexcept {
    const std::lock_guard held(mutex_);
    if (!pipe_) return;
    if (pipe_.ours()) unwatch(pipe_.get());
    pipe_.reset();
    guarded([this] { buffer_.end_of_input(); });
    announce();
  }

 private:
  static constexpr std::size_t read_at_once = 64 * 1024;

  Batch take() override {
    const std::lock_guard held(mutex_);
    announced_ = false;
    Batch batch = buffer_.take();
    if (!pipe_) batch.last = std::move(target_);
    return batch;
  }

  bool read(std::size_t most) noexcept {
    char bytes[16 * 1024];
    bool open = pipe_.ours();  // or else the program has closed it, and what has the number now is not ours to read
    while (most > 0 && open) {
      const ssize_t got = ::read(pipe_.get(), bytes, std::min(most, sizeof bytes));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      open = got > 0;
      if (!open) break;
      if (target_) guarded([&] { buffer_.append({bytes, static_cast<std::size_t>(got)}); });
      most -= static_cast<std::size_t>(got);
      if (static_cast<std::size_t>(got) < sizeof bytes) break;  // it was empty then
    }
    announce();
    return open;
  }

  void announce() noexcept {
    unannounced_ = false;
    if (!target_ || announced_ || (pipe_ && !buffer_.has_lines())) return;  // the end is announced as well
    try {
      target_->announce(shared_from_this());
      announced_ = true;
    } catch (...) {
      unannounced_ = true;
    }
  }

  /// Out of memory must not end the thread that everybody's processes depend on.
  template <class Function>
  void guarded(Function function) noexcept {
    try {
      function();
    } catch (...) {
      buffer_.lose_everything();
    }
  }

  std::mutex mutex_;
  KeptFd pipe_;
  LineBuffer buffer_;
  bool unannounced_ = false;
  bool announced_ = false;  // the handler's executor has been told and has not come yet
  std::shared_ptr<LineTarget> target_;
};

}  // namespace drover::inline v1::detail
