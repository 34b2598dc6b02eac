#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utility>

#include <drover/os/command.hpp>
#include <drover/os/detail/line_handler.hpp>
#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// Lines that no handler received, and their bytes with the line ends.
struct LostLines {
  std::size_t lines{}, bytes{};
};

/// Splits bytes into lines and keeps the latest of them, or all.
class LineBuffer {
 public:
  enum class WhenFull { drop_oldest, keep_all };

  explicit LineBuffer(WhenFull when_full = WhenFull::drop_oldest) noexcept : when_full_(when_full) {}

  void append(std::string_view bytes) noexcept {
    if (lost_a_beginning_) bytes.remove_prefix(lose_a_rest(bytes));
    try {
      make_room(bytes.size() + bytes.size() / max_line +
                2);  // with each line end that may be added, also one at the end
    } catch (const std::bad_alloc&) {
      return lose_everything(bytes);
    }
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

  /// An unfinished last line counts as a line from now on.
  void end_of_input() noexcept try {
    if (text_.size() != last_line_) end_line();
    drop_oldest();
  } catch (const std::bad_alloc&) {
    lose_everything();
  }

  bool full() const noexcept { return last_line_ - first_ >= max_pending_lines; }

  bool has_lines() const noexcept { return last_line_ != first_ || dropped_ != 0; }

  /// Takes the complete lines; an unfinished one stays.
  LineSource::Batch take() {
    std::string unfinished = text_.substr(last_line_);
    text_.resize(last_line_);
    text_.erase(0, first_);
    first_ = last_line_ = 0;
    return {.text = std::exchange(text_, std::move(unfinished)), .dropped = std::exchange(dropped_, 0)};
  }

  /// Counts the kept lines, and `more`, which could not be kept, as lost. A line that lost its beginning loses its rest
  /// too.
  void lose_everything(std::string_view more = {}) noexcept {
    for (const std::string_view lost : {std::string_view(text_).substr(first_), more}) {
      if (lost.empty()) continue;
      const auto ends = static_cast<std::size_t>(std::count(lost.begin(), lost.end(), '\n'));
      if (!lost_a_beginning_) lose(1, 0);
      lost_a_beginning_ = lost.back() != '\n';
      lose(ends - (lost_a_beginning_ ? 0 : 1), lost.size());
    }
    forget();
  }

  /// Discards the kept lines without counting them as lost: no handler is left for them.
  void forget() noexcept {
    text_ = {};
    first_ = last_line_ = 0;
  }

  /// Counted since the beginning.
  LostLines lost() const noexcept { return lost_; }

 private:
  void lose(std::size_t lines, std::size_t bytes) noexcept {
    dropped_ += lines;
    lost_.lines += lines;
    lost_.bytes += bytes;
  }

  // Counts the rest of a line whose beginning was lost, and returns its length.
  std::size_t lose_a_rest(std::string_view bytes) noexcept {
    const std::size_t end = bytes.find('\n');
    lost_a_beginning_ = end == std::string_view::npos;
    const std::size_t length = lost_a_beginning_ ? bytes.size() : end + 1;
    lose(0, length);
    return length;
  }

  void make_room(std::size_t more) {
    if (text_.size() + more > text_.capacity()) text_.reserve(std::max(text_.size() + more, 2 * text_.capacity()));
  }

  void end_line() {
    text_.push_back('\n');
    last_line_ = text_.size();
  }

  void drop_oldest() noexcept {
    while (when_full_ == WhenFull::drop_oldest && last_line_ - first_ > max_pending_lines) {
      const std::size_t next = text_.find('\n', first_) + 1;
      lose(1, next - first_);
      first_ = next;
    }
    if (first_ < max_pending_lines) return;
    text_.erase(0, first_);
    last_line_ -= first_;
    first_ = 0;
  }

  std::string text_;           // complete lines, each ended by '\n', then an unfinished one
  std::size_t first_ = 0;      // where the first kept line begins
  std::size_t last_line_ = 0;  // where the unfinished line begins
  std::size_t dropped_ = 0;    // since the last take()
  LostLines lost_;
  bool lost_a_beginning_ = false;  // the next bytes are the rest of a lost line
  WhenFull when_full_;
};

/// The reading end of a child's stdout or stderr. Lock order: the child's, this one, then the reaper thread's or the
/// line handler's, last the context registry's.
class LineReader final : public LineSource, public std::enable_shared_from_this<LineReader> {
 public:
  /// Begins or ends the watch of a descriptor; 0 or an errno. Called under the reader's lock, while the descriptor is
  /// open.
  using Watch = std::function<int(int fd, bool on)>;

  LineReader(UniqueFd pipe, std::shared_ptr<LineTarget> target)
      : pipe_(std::move(pipe)),
        waits_(target->waits()),
        buffer_(waits_ ? LineBuffer::WhenFull::keep_all : LineBuffer::WhenFull::drop_oldest),
        target_(std::move(target)) {}

  /// 0 or an errno.
  int start(Watch watch) {
    const std::lock_guard held(mutex_);
    watch_ = std::move(watch);
    return watch_(pipe_.get(), true);
  }
  /// Watches the pipe again, in case the watch was lost.
  void watch_again() noexcept {
    const std::lock_guard held(mutex_);
    if (!paused_ && pipe_.ours()) watch_(pipe_.get(), true);
  }
  /// Called at intervals. Ends a pause that nothing else will end, because an earlier attempt to end it failed.
  void check() noexcept {
    const std::lock_guard held(mutex_);
    if (!announced_) go_on();
  }

  /// Reads bytes that have arrived, up to a bound, unless the handler has to take lines first. False at the end of the
  /// stream; the caller then closes the reader.
  bool read_some() noexcept {
    const std::lock_guard held(mutex_);
    if (!pipe_ || paused_) return true;
    const bool open = read(read_at_once);
    if (open) pause_if_full();
    return open;
  }

  /// The process has exited: reads the present content of the pipe and no more, however fast other processes write to
  /// it.
  void read_rest() noexcept {
    const std::lock_guard held(mutex_);
    int left = 0;
    if (pipe_.ours() && ::ioctl(pipe_.get(), FIONREAD, &left) == 0 && left > 0) read(static_cast<std::size_t>(left));
  }

  /// False if the handler could not be notified because memory was short; the caller then tries again.
  bool announced() noexcept {
    const std::lock_guard held(mutex_);
    if (unannounced_) announce();
    return !unannounced_;
  }

  /// From now on discards everything that is read, and the lines that wait for the handler.
  void silence() noexcept {
    std::shared_ptr<LineTarget> gone;  // destroyed without the lock
    const std::lock_guard held(mutex_);
    gone = std::move(target_);
    give_up();
  }

  void close() noexcept {
    const std::lock_guard held(mutex_);
    if (!pipe_) return;
    if (watch_ && pipe_.ours()) watch_(pipe_.get(), false);
    pipe_.reset();
    buffer_.end_of_input();
    announce();
  }

  LostLines lost() const noexcept {
    const std::lock_guard held(mutex_);
    return buffer_.lost();
  }

 private:
  static constexpr std::size_t read_at_once = 64 * 1024;

  Batch take() override {
    const std::lock_guard held(mutex_);
    announced_ = false;
    go_on();  // even without memory for the batch: the lines are announced once more then
    Batch batch = buffer_.take();
    if (!pipe_) batch.last = std::move(target_);
    return batch;
  }

  void handler_is_gone() noexcept override {
    const std::lock_guard held(mutex_);
    give_up();
  }

  void give_up() noexcept {
    unwanted_ = true;
    buffer_.forget();
    go_on();
  }

  // Pauses only while lines are announced: the handler will take them, which ends the pause.
  void pause_if_full() noexcept {
    if (!waits_ || !announced_ || !buffer_.full() || !pipe_.ours()) return;
    watch_(pipe_.get(), false);
    paused_ = true;
  }
  void go_on() noexcept {
    if (paused_ && pipe_.ours()) paused_ = watch_(pipe_.get(), true) != 0;
  }

  bool read(std::size_t most) noexcept {
    char bytes[16 * 1024];
    bool open = pipe_.ours();  // false: the program has closed it, and the number's present file is not ours to read
    while (most > 0 && open) {
      const ssize_t got = ::read(pipe_.get(), bytes, std::min(most, sizeof bytes));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0 && errno == EAGAIN) break;
      open = got > 0;
      if (!open) break;
      if (!unwanted_) buffer_.append({bytes, static_cast<std::size_t>(got)});
      most -= static_cast<std::size_t>(got);
      if (static_cast<std::size_t>(got) < sizeof bytes) break;  // the pipe was empty then
    }
    announce();
    return open;
  }

  void announce() noexcept {
    unannounced_ = false;
    if (unwanted_ || !target_ || announced_ || (pipe_ && !buffer_.has_lines())) return;  // the end is announced as well
    try {
      announced_ = target_->announce(shared_from_this());
      if (!announced_) give_up();
    } catch (...) {  // no memory; the reaper thread tries again
      unannounced_ = true;
    }
  }

  mutable std::mutex mutex_;
  KeptFd pipe_;
  Watch watch_;
  const bool waits_;  // for the handler, once max_pending_lines bytes wait for it
  bool paused_ = false;
  bool unwanted_ = false;  // the owner of the process, or the handler, is destroyed
  LineBuffer buffer_;
  bool unannounced_ = false;
  bool announced_ = false;  // the handler's executor was notified and has not taken the lines yet
  std::shared_ptr<LineTarget> target_;
};

}}}  // namespace drover::v1::detail
