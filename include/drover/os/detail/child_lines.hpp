#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <sys/epoll.h>
#include <utility>

#include <drover/os/detail/lines.hpp>
#include <drover/os/detail/reaper_entry.hpp>
#include <drover/os/fd.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The lines of a child's stdout and stderr, of those that the command wants. Any thread may call any member, with the
/// child's lock or without: each reader has a lock of its own, which comes after the child's.
class ChildLines {
 public:
  ChildLines(ReaperEntry& entry, std::shared_ptr<LineReader> out, std::shared_ptr<LineReader> err) noexcept
      : entry_(entry), readers_{std::move(out), std::move(err)} {}

  bool wanted() const noexcept { return readers_[0] || readers_[1]; }

  /// Throws std::system_error.
  void start() {
    for (std::size_t i = 0; i < readers_.size(); ++i) {
      if (!readers_[i]) continue;
      const auto watch = [this, i](int fd, bool on) noexcept {
        if (on && !entry_.foreign()) return entry_.watch(fd, ReaperEntry::output_channels[i], EPOLLIN);
        if (!entry_.foreign()) entry_.unwatch(fd);
        return 0;
      };
      if (const int error = readers_[i]->start(watch)) throw_errno("cannot watch a process's output", error);
    }
  }

  /// Watches the pipes again, in case the watch was lost.
  void watch_again() noexcept {
    each([](LineReader& reader) { reader.watch_again(); });
  }
  /// Called at intervals, see LineReader::check().
  void check() noexcept {
    each([](LineReader& reader) { reader.check(); });
  }

  /// Bytes have arrived. False if the handler could not be notified: see announced().
  bool on_readable(unsigned channel) noexcept {
    LineReader& reader = *readers_[channel - ReaperEntry::output_channels[0]];
    if (!reader.read_some()) reader.close();
    return reader.announced();
  }

  /// Notifies the handlers of lines that they do not know of yet. False if memory was short; the caller then tries
  /// again.
  bool announced() noexcept {
    bool all = true;
    each([&all](LineReader& reader) { all = reader.announced() && all; });
    return all;
  }

  /// The process has exited: reads what the pipes hold at present.
  void read_rest() noexcept {
    each([](LineReader& reader) { reader.read_rest(); });
  }
  /// The same, and reads no more after that.
  void close() noexcept {
    read_rest();
    each([](LineReader& reader) { reader.close(); });
  }

  /// The owner is destroyed: drops further lines.
  void silence() noexcept {
    each([](LineReader& reader) { reader.silence(); });
  }

  LostLines lost() const noexcept {
    LostLines sum;
    each([&sum](const LineReader& reader) {
      const LostLines lost = reader.lost();
      sum.lines += lost.lines;
      sum.bytes += lost.bytes;
    });
    return sum;
  }

 private:
  template <class F>
  void each(F function) const noexcept {
    for (const auto& reader : readers_)
      if (reader) function(*reader);
  }

  ReaperEntry& entry_;
  const std::array<std::shared_ptr<LineReader>, 2> readers_;
};

}}}  // namespace drover::v1::detail
