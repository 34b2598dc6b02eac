#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <http_parser.h>
#include <map>
#include <string>
#include <string_view>
#include <utility>

struct Request {
  unsigned method = HTTP_GET;                 ///< an http_method
  std::string path, query;                    ///< of "/thumbnail?size=200": "/thumbnail" and "size=200"
  std::map<std::string, std::string> fields;  ///< names in lower case
  std::string body;
  bool keep_alive = false;  ///< the client may send another request afterwards

  std::string_view field(const std::string& name) const {
    const auto found = fields.find(name);
    return found == fields.end() ? std::string_view() : found->second;
  }
  /// The value of a parameter of the query; empty if there is none.
  std::string parameter(std::string_view name) const {
    for (std::string_view rest = query; !rest.empty();) {
      const std::string_view one = rest.substr(0, rest.find('&'));
      rest.remove_prefix(std::min(one.size() + 1, rest.size()));
      const std::size_t equals = one.find('=');
      if (one.substr(0, equals) == name && equals != one.npos) return std::string(one.substr(equals + 1));
    }
    return {};
  }
};

/// Cuts a stream of bytes into requests. http-parser knows the syntax, this class has the limits.
class RequestReader {
 public:
  static constexpr std::size_t max_head = std::size_t{16} << 10;
  static constexpr std::size_t max_body = std::size_t{8} << 20;

  RequestReader() {
    ::http_parser_set_max_header_size(max_head);
    start();
  }
  RequestReader(const RequestReader&) = delete;  // http-parser refers to it
  RequestReader& operator=(const RequestReader&) = delete;

  /// Reads up to the end of the request, and returns how many bytes of `bytes` that took.
  std::size_t read(std::string_view bytes) {
    started_ = started_ || !bytes.empty();
    const std::size_t taken = ::http_parser_execute(&parser_, &callbacks(), bytes.data(), bytes.size());
    const http_errno error = HTTP_PARSER_ERRNO(&parser_);
    if (error == HPE_HEADER_OVERFLOW) status_ = HTTP_STATUS_REQUEST_HEADER_FIELDS_TOO_LARGE;
    if (error != HPE_OK && !complete_ && status_ == 0) status_ = HTTP_STATUS_BAD_REQUEST;
    return taken;
  }

  bool started() const { return started_; }
  bool complete() const { return complete_ && status_ == 0; }
  /// The status to refuse the request with, or 0. Nothing can be read after that.
  unsigned refused() const { return status_; }
  /// Whether the client waits for "100 Continue" before it sends the body. True once.
  bool take_expectation() { return std::exchange(expects_continue_, false) && !complete_ && status_ == 0; }

  /// The complete request. The next one can be read then.
  Request take() {
    Request taken = std::move(request_);
    start();
    return taken;
  }

 private:
  void start() {
    ::http_parser_init(&parser_, HTTP_REQUEST);
    parser_.data = this;
    request_ = {};
    url_.clear();
    name_.clear();
    value_.clear();
    in_value_ = started_ = complete_ = expects_continue_ = false;
  }

  int refuse(unsigned status) {
    status_ = status;
    return -1;
  }

  void add_field() {
    std::transform(name_.begin(), name_.end(), name_.begin(), [](unsigned char c) { return std::tolower(c); });
    std::string& all = request_.fields[std::exchange(name_, {})];
    all += (all.empty() ? "" : ", ") + std::exchange(value_, {});
  }

  int head_is_complete() {
    if (std::exchange(in_value_, false)) add_field();
    request_.method = parser_.method;
    request_.keep_alive = ::http_should_keep_alive(&parser_) != 0;
    if (parser_.http_major != 1) return refuse(HTTP_STATUS_HTTP_VERSION_NOT_SUPPORTED);
    if (parser_.http_minor >= 1 && !request_.fields.contains("host")) return refuse(HTTP_STATUS_BAD_REQUEST);
    if ((parser_.flags & F_CONTENTLENGTH) != 0 && parser_.content_length > max_body)
      return refuse(HTTP_STATUS_PAYLOAD_TOO_LARGE);

    http_parser_url parts;
    ::http_parser_url_init(&parts);
    if (::http_parser_parse_url(url_.data(), url_.size(), parser_.method == HTTP_CONNECT, &parts) != 0)
      return refuse(HTTP_STATUS_BAD_REQUEST);
    const auto part = [&](http_parser_url_fields which) {
      return url_.substr(parts.field_data[which].off, parts.field_data[which].len);
    };
    request_.path = part(UF_PATH);
    request_.query = part(UF_QUERY);
    expects_continue_ = request_.field("expect") == "100-continue";
    return 0;
  }

  static RequestReader& of(http_parser* parser) { return *static_cast<RequestReader*>(parser->data); }

  static const http_parser_settings& callbacks() {
    static const http_parser_settings settings = [] {
      http_parser_settings made;
      ::http_parser_settings_init(&made);
      made.on_url = [](http_parser* parser, const char* data, std::size_t size) {
        of(parser).url_.append(data, size);
        return 0;
      };
      made.on_header_field = [](http_parser* parser, const char* data, std::size_t size) {
        RequestReader& self = of(parser);
        if (std::exchange(self.in_value_, false)) self.add_field();
        self.name_.append(data, size);
        return 0;
      };
      made.on_header_value = [](http_parser* parser, const char* data, std::size_t size) {
        of(parser).in_value_ = true;
        of(parser).value_.append(data, size);
        return 0;
      };
      made.on_headers_complete = [](http_parser* parser) { return of(parser).head_is_complete(); };
      made.on_body = [](http_parser* parser, const char* data, std::size_t size) {
        RequestReader& self = of(parser);
        if (size > max_body - self.request_.body.size()) return self.refuse(HTTP_STATUS_PAYLOAD_TOO_LARGE);
        self.request_.body.append(data, size);
        return 0;
      };
      made.on_message_complete = [](http_parser* parser) {
        of(parser).complete_ = true;
        ::http_parser_pause(parser, 1);  // what follows belongs to the next request
        return 0;
      };
      return made;
    }();
    return settings;
  }

  http_parser parser_{};
  Request request_;
  std::string url_, name_, value_;
  unsigned status_ = 0;
  bool in_value_ = false, started_ = false, complete_ = false, expects_continue_ = false;
};
