#pragma once

#include <deque>
#include <optional>
#include <system_error>
#include <utility>

#include <drover/os/detail/descriptor_list.hpp>
#include <drover/wire/buffer.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/frame.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The frames that a worker has received and not processed yet, in order. A routine that blocks on a stream reads past
/// CALLs: those are put aside, and come first afterwards.
class IncomingFrames {
 public:
  explicit IncomingFrames(Channel& data) noexcept : data_(data) {}

  /// Reads from the socket.
  Channel::Received receive() {
    try {
      return data_.receive();
    } catch (const std::system_error&) {  // other code of this process has closed it
      return Channel::Received::closed;
    }
  }

  /// The next frame, which stays. Null if none is complete.
  /// *Errors:* Error with protocol_error.
  /// *Lifetime:* until take(), drop_next() or put_aside_next().
  const Frame* next() {
    if (next_) return &*next_;
    if (!aside_.empty()) {
      current_ = std::move(aside_.front());
      aside_.pop_front();
      from_aside_ = true;
      next_ = Frame{current_.header, current_.body.view()};
    } else {
      from_aside_ = false;
      next_ = data_.next();
    }
    return next_ ? &*next_ : nullptr;
  }
  /// The same, if next() has found it before.
  const Frame* found() const noexcept { return next_ ? &*next_ : nullptr; }
  /// After next().
  /// *Lifetime:* of its body: until the next call of next(), or until something is received.
  Frame take() noexcept { return *std::exchange(next_, std::nullopt); }
  void drop_next() noexcept { next_.reset(); }
  /// The body of the frame that was taken last.
  ByteBuffer take_body() { return from_aside_ ? std::move(current_.body) : data_.reader().take_body(); }

  /// Of the frame that was taken last.
  DescriptorList& descriptors() noexcept { return from_aside_ ? current_.descriptors : data_.reader().descriptors(); }

  /// Before something is received within a routine: the next frame, if there is one, does not stay in the reader.
  void put_aside_next() {
    if (!next_) return;
    ByteBuffer body = take_body();
    aside_.push_front({next_->header, std::move(body), std::move(descriptors())});
    next_.reset();
  }
  /// A frame of the channel, behind those that were put aside before.
  void put_aside(const Frame& frame) {
    ByteBuffer body = data_.reader().take_body();
    aside_.push_back({frame.header, std::move(body), std::move(data_.reader().descriptors())});
  }
  bool has_aside() const noexcept { return !aside_.empty(); }

  /// There may be frames that have not been processed.
  bool held() const noexcept { return held_; }
  void hold() noexcept { held_ = true; }
  /// All have been processed.
  void release() noexcept { held_ = false; }

 private:
  struct Owned {
    FrameHeader header;
    ByteBuffer body{};
    DescriptorList descriptors{};
  };

  Channel& data_;
  std::optional<Frame> next_;
  bool held_ = false;
  bool from_aside_ = false;  // the last frame from next() is `current_`
  Owned current_;
  std::deque<Owned> aside_;
};

}}}  // namespace drover::v1::detail
