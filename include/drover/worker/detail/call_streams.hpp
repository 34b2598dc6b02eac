#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>

#include <drover/error.hpp>
#include <drover/wire/frame.hpp>
#include <drover/worker/detail/stream_port.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The streams of the calls in progress of a worker, by the id of the call.
class CallStreams {
 public:
  CallStreams() = default;
  CallStreams(const CallStreams&) = delete;
  CallStreams& operator=(const CallStreams&) = delete;
  ~CallStreams() {
    for (const auto& [call, port] : ports_) port->detach();
  }

  static bool is_for_stream(FrameType type) noexcept {
    return type == FrameType::item || type == FrameType::credit || type == FrameType::finish;
  }

  bool empty() const noexcept { return ports_.empty(); }

  /// Throws std::bad_alloc; then nothing has changed.
  std::shared_ptr<StreamPort> add(StreamPort::Loop& loop, const FrameHeader& call, std::size_t limit) {
    auto port = std::make_shared<StreamPort>(loop, call, limit);
    ports_.emplace(call.id, port);
    return port;
  }
  /// The call has ended.
  void close(std::uint64_t call) noexcept {
    const auto node = ports_.extract(call);
    if (!node.empty()) node.mapped()->close();
  }

  /// Frames for a call that has ended come too late, and are dropped. Throws Error with protocol_error.
  void receive(const Frame& frame, FrameReader& reader, std::uint64_t last_read) {
    if (frame.header.id > last_read) throw Error(Errc::protocol_error, "a frame of a stream precedes its CALL");
    if (const auto found = ports_.find(frame.header.id); found != ports_.end()) found->second->receive(frame, reader);
  }
  /// Nothing can be sent or received any more.
  void lose_all() noexcept {
    for (const auto& [call, port] : ports_) port->lose();
  }
  /// The values of Sink::latest() that had to wait for the socket, until it is full. True if one still waits.
  bool send_latest() {
    for (const auto& [call, port] : ports_) {
      port->send_latest();
      if (port->has_latest()) return true;
    }
    return false;
  }

 private:
  std::unordered_map<std::uint64_t, std::shared_ptr<StreamPort>> ports_;
};

}}}  // namespace drover::v1::detail
