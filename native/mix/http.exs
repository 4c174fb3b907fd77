defmodule EmbeddedEpmd.Build.Http do
  @moduledoc false
  # One GET request over HTTP/1.1, whose body goes into a file. OTP's httpc keeps the body of a redirect, of an error and
  # each chunk in memory, as long as the other side sends.

  # For the connection; milliseconds.
  @connecting 10_000
  # The longest status line with its headers, and the longest line before a chunk; bytes.
  @longest_head 65_536
  @longest_line 1_024
  # A chunk takes time, however short it is, and counts as this many bytes more.
  @chunk 1_024
  # The most that one read brings; bytes.
  @read 65_536
  @redirects [301, 302, 303, 307, 308]

  @doc """
  Asks for a URL, and writes what comes into `file`, an open one.

  The options are `:proxy`, an URI or nil; `:tls`, the options of TLS; `:deadline`, in milliseconds of the monotonic
  clock; and `:left`, a reference of `:counters` with the bytes that may still come, of which those are taken off that
  have come.
  """
  def get(%URI{} = url, file, options) do
    with {:ok, link} <- connect(url, options) do
      answer = with :ok <- ask(link, url, options[:proxy]), do: answer(link, file)
      close(link)
      answer
    end
  end

  ## The connection

  defp connect(%URI{scheme: "http"} = url, %{proxy: nil} = options), do: open(:gen_tcp, url, [], options)
  defp connect(%URI{scheme: "http"}, %{proxy: proxy} = options), do: open(:gen_tcp, proxy, [], options)
  defp connect(url, %{proxy: nil} = options), do: open(:ssl, url, options.tls, options)

  defp connect(url, %{proxy: proxy} = options) do
    with {:ok, link} <- open(:gen_tcp, proxy, [], options) do
      with :ok <- write(link, ["CONNECT ", authority(url, :with_port), " HTTP/1.1\r\n", request_fields(url, proxy)]),
           {:ok, 200, _fields, %{received: ""}} <- head(link),
           name = String.to_charlist(url.host),
           {:ok, socket} <- :ssl.connect(link.socket, [server_name_indication: name] ++ options.tls, left(link)) do
        {:ok, %{link | transport: :ssl, socket: socket}}
      else
        failed ->
          close(link)
          with {:ok, status, _fields, _link} <- failed, do: {:error, {:proxy, status}}
      end
    end
  end

  defp open(transport, %URI{host: host, port: port}, specific, %{deadline: deadline, left: left}) do
    connect = fn family ->
      options = [family, :binary, active: false, buffer: @read] ++ specific
      transport.connect(String.to_charlist(host), port, options, min(@connecting, max(0, deadline - now())))
    end

    # An address of the other family, or a name that has none of this one, is an error of POSIX.
    opened = with {:error, reason} when is_atom(reason) <- connect.(:inet6), do: connect.(:inet)
    link = %{transport: transport, socket: nil, received: "", deadline: deadline, left: left}
    with {:ok, socket} <- opened, do: {:ok, %{link | socket: socket}}
  end

  defp close(%{transport: transport, socket: socket}), do: transport.close(socket)

  ## The request

  defp ask(link, %URI{scheme: "http"} = url, %URI{} = proxy),
    do: write(link, ["GET http://", authority(url), target(url), " HTTP/1.1\r\n", request_fields(url, proxy)])

  defp ask(link, url, _proxy), do: write(link, ["GET ", target(url), " HTTP/1.1\r\n", request_fields(url, nil)])

  defp target(url), do: [url.path || "/", if(url.query, do: ["?", url.query], else: [])]

  defp request_fields(url, proxy) do
    [
      ["host: ", authority(url), "\r\nuser-agent: embedded_epmd\r\naccept-encoding: identity\r\nconnection: close\r\n"],
      credentials("proxy-authorization", proxy),
      credentials("authorization", if(proxy == nil or url.scheme == "http", do: url)),
      "\r\n"
    ]
  end

  defp credentials(field, %URI{userinfo: user}) when is_binary(user) and user != "" do
    user = user |> String.split(":", parts: 2) |> Enum.map_join(":", &URI.decode/1)
    [field, ": Basic ", Base.encode64(user), "\r\n"]
  end

  defp credentials(_field, _url), do: []

  defp authority(url, port \\ :unless_usual) do
    host = if url.host =~ ":", do: "[#{url.host}]", else: url.host
    if port == :unless_usual and url.port == URI.default_port(url.scheme), do: host, else: "#{host}:#{url.port}"
  end

  ## The answer

  # `:ok`, `{:redirect, location}`, `{:status, number}` or an error.
  defp answer(link, file) do
    with {:ok, status, fields, link} <- head(link) do
      case {status, fields} do
        {200, _} -> body(link, file, fields)
        {status, %{"location" => location}} when status in @redirects -> {:redirect, location}
        {status, _} -> {:status, status}
      end
    end
  end

  defp head(link) do
    with {:ok, head, link} <- until(link, "\r\n\r\n", @longest_head) do
      with {:ok, {:http_response, _version, status, _reason}, fields} <-
             :erlang.decode_packet(:http_bin, head <> "\r\n\r\n", []),
           {:ok, fields} <- response_fields(fields, %{}) do
        {:ok, status, fields, link}
      else
        _ -> no_http()
      end
    end
  end

  defp response_fields(text, fields) do
    case :erlang.decode_packet(:httph_bin, text, []) do
      {:ok, {:http_header, _, name, _, value}, rest} ->
        response_fields(rest, Map.put(fields, String.downcase("#{name}"), value))

      {:ok, :http_eoh, ""} ->
        {:ok, fields}

      _ ->
        no_http()
    end
  end

  defp no_http, do: {:error, :no_http}

  defp body(link, file, %{"transfer-encoding" => coding}),
    do: if(String.downcase(coding) == "chunked", do: chunks(link, file), else: no_http())

  defp body(link, file, %{"content-length" => length}) do
    with {length, ""} when length >= 0 <- Integer.parse(length),
         {:ok, _link} <- copy(link, file, length) do
      :ok
    else
      {:error, reason} -> {:error, reason}
      _ -> no_http()
    end
  end

  defp body(link, file, _fields), do: all(link, file)

  defp all(link, file) do
    with {:ok, link} <- copy(link, file, byte_size(link.received)) do
      case more(link) do
        {:ok, link} -> all(link, file)
        {:error, :closed} -> :ok
        error -> error
      end
    end
  end

  defp chunks(link, file) do
    with {:ok, line, link} <- until(link, "\r\n", @longest_line) do
      with {size, after_size} when size >= 0 <- Integer.parse(line, 16),
           true <- after_size == "" or String.starts_with?(after_size, [";", " "]) do
        chunk(link, file, size)
      else
        _ -> no_http()
      end
    end
  end

  defp chunk(_link, _file, 0), do: :ok

  defp chunk(link, file, size) do
    with :ok <- take_off(link, @chunk),
         {:ok, link} <- copy(link, file, size),
         do: after_chunk(link, file)
  end

  defp after_chunk(%{received: "\r\n" <> rest} = link, file), do: chunks(%{link | received: rest}, file)

  defp after_chunk(%{received: received} = link, file) when received in ["", "\r"],
    do: with({:ok, link} <- more(link), do: after_chunk(link, file))

  defp after_chunk(_link, _file), do: no_http()

  defp copy(link, _file, 0), do: {:ok, link}

  defp copy(%{received: ""} = link, file, count), do: with({:ok, link} <- more(link), do: copy(link, file, count))

  defp copy(%{received: received} = link, file, count) do
    size = min(count, byte_size(received))
    bytes = binary_part(received, 0, size)
    rest = binary_part(received, size, byte_size(received) - size)

    case :file.write(file, bytes) do
      :ok -> copy(%{link | received: rest}, file, count - size)
      {:error, reason} -> {:error, {:file, reason}}
    end
  end

  ## Bytes

  # What comes before the separator, at most so many bytes.
  defp until(%{received: received} = link, separator, longest) do
    case :binary.split(received, separator) do
      [bytes, rest] -> {:ok, bytes, %{link | received: rest}}
      [_] when byte_size(received) > longest -> no_http()
      [_] -> with {:ok, link} <- more(link), do: until(link, separator, longest)
    end
  end

  # With a time-out of 0 what is there would still be returned, so whoever sends enough would never be timed out.
  defp more(%{transport: transport, socket: socket, received: received} = link) do
    with time when time > 0 <- left(link),
         {:ok, bytes} <- transport.recv(socket, 0, time),
         :ok <- take_off(link, byte_size(bytes)) do
      {:ok, %{link | received: received <> bytes}}
    else
      0 -> {:error, :timeout}
      error -> error
    end
  end

  defp take_off(%{left: left}, count) do
    :counters.sub(left, 1, count)
    if :counters.get(left, 1) < 0, do: {:error, :too_long}, else: :ok
  end

  defp write(%{transport: transport, socket: socket}, bytes), do: transport.send(socket, bytes)

  defp left(%{deadline: deadline}), do: max(0, deadline - now())
  defp now, do: System.monotonic_time(:millisecond)
end
