#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <sys/types.h>
#include <system_error>
#include <utility>

#include <drover/error.hpp>
#include <drover/os/credentials.hpp>
#include <drover/os/detail/lineage.hpp>
#include <drover/pool/detail/worker/worker_errors.hpp>
#include <drover/pool/options.hpp>
#include <drover/wire/channel.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The first message of a worker: who sent it, which version of the protocol it speaks, and what it serves.
class Handshake {
 public:
  /// Receives once, and makes sure that the sender is the process `child` or descends from it: a wrapper may fork
  /// before it executes the worker. `short_of_memory`: the kernel had none. Throws Error with protocol_error for a
  /// stranger or for descriptors, and std::system_error.
  Channel::Received receive(Channel& channel, const WorkerErrors& worker, pid_t child, bool& short_of_memory) {
    using Received = Channel::Received;
    short_of_memory = false;
    if (!channel.is_intact()) throw_errno("the program has closed a socket", EBADF);
    try {
      const auto received = receive_with_credentials(channel.fd(), channel.reader().prepare());
      if (received.descriptors) throw worker.error(Errc::protocol_error, "sent descriptors with its HELLO");
      if (received.bytes == 0) return Received::closed;
      const pid_t sender = received.sender.value_or(0);
      if (sender != child && !descends_from(sender, child))
        throw Error(Errc::protocol_error, "process " + std::to_string(sender) + " wrote to the control socket of " +
                                              worker.worker() + ", but does not descend from its process " +
                                              std::to_string(child));
      sender_ = sender;
      channel.reader().commit(received.bytes);
      return Received::some;
    } catch (const Error&) {
      throw;
    } catch (const std::system_error& error) {
      if (error.code() == std::errc::resource_unavailable_try_again) return Received::nothing_yet;
      if (error.code() == std::errc::connection_reset) return Received::closed;
      if (error.code() != std::errc::no_buffer_space && error.code() != std::errc::not_enough_memory) throw;
      short_of_memory = true;
      return Received::nothing_yet;
    }
  }

  /// The worker process itself, which a wrapper may have started. Empty before its first message.
  std::optional<pid_t> sender() const noexcept { return sender_; }

  /// Throws Error if HELLO is not one of a worker of this version.
  static void check_version(const FrameHeader& hello, const WorkerErrors& worker) {
    const auto version = hello_version(hello.id);
    if (!version)
      throw Error(Errc::protocol_error, "the first message of " + worker.worker() +
                                            " is not a drover HELLO; is the program a drover worker?");
    if (*version != protocol_version)
      throw worker.error(Errc::version_mismatch,
                         "speaks version " + std::to_string(*version) + " of the protocol, this program speaks " +
                             std::to_string(protocol_version) + "; build both with the same drover");
  }

  /// Throws Error with protocol_error if it is malformed.
  static StartFailure start_failure(const Frame& frame, const WorkerErrors& worker) {
    try {
      return decode_start_failure(frame.body);
    } catch (const DecodeError& error) {
      throw worker.error(Errc::protocol_error, std::string("sent a malformed START_FAILED: ") + error.what());
    }
  }

  /// Throws Error with protocol_error if the HELLO is malformed.
  WorkerMetadata metadata(const Frame& frame, const WorkerOptions& options, pid_t child) const {
    WorkerMetadata metadata;
    try {
      Hello hello = decode_hello(frame.body);
      metadata.version = std::move(hello.version);
      metadata.routines = std::move(hello.routines);
    } catch (const DecodeError& error) {
      throw Error(Errc::protocol_error, "worker '" + options.name + "' sent a malformed HELLO: " + error.what());
    }
    std::sort(metadata.routines.begin(), metadata.routines.end());
    metadata.name = options.name;
    metadata.pid = sender_.value_or(child);
    metadata.tags = options.tags;
    metadata.extra = options.extra;
    return metadata;
  }

 private:
  std::optional<pid_t> sender_;
};

}}}  // namespace drover::v1::detail
