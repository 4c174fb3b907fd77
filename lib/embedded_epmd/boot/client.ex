defmodule EmbeddedEpmd.Boot.Client do
  @moduledoc false
  # Lookups over TCP. OTP's :erl_epmd knows only the port of -epmd_port; ours may come from the application
  # environment.

  @port_please2_req ?z
  @names_req ?n
  @dump_req ?d
  @port2_resp ?w
  # Not of OTP's protocol: `PLAN_REQ` of native/epmd_core/src/protocol.rs.
  @plan_req "pembedded_epmd"
  @plan_resp ?p
  # The distribution versions that we know; OTP 23 introduced the highest. OTP's client lets the environment narrow
  # them.
  @highest 6
  @lowest 5
  # How long to wait for an answer if the timeout is :infinity, in milliseconds: :erl_epmd never waits longer.
  @receive_timeout 10_000
  # What one read of a lookup and of a listing brings, and the longest listing, in bytes. Whoever answers may be no
  # EPMD, or one that never ends.
  @look_up_read 4_096
  @listing_read 65_536
  @longest_listing 16 * 1024 * 1024
  # The longest name, in bytes: OTP's daemon takes 255 characters.
  @longest_name 4 * 255
  # The longest name with what is said of it once it has left, in bytes.
  @longest_departed @longest_name + 64

  @type answer :: {:port, :inet.port_number(), version :: non_neg_integer()} | :noport

  @doc "Looks up the port of a node. Errors are those of `:erl_epmd`."
  @spec port(charlist() | String.t(), :inet.ip_address(), :inet.port_number(), timeout()) ::
          answer() | {:error, atom()}
  def port(name, ip, port, timeout) do
    request = :unicode.characters_to_binary([@port_please2_req, name])

    case ask(ip, port, request, {@look_up_read, &look_up_reply/1}, timeout) do
      {:ok, <<@port2_resp, 0, node::16, _type, _protocol, highest::16, lowest::16, _size::16, _::binary>>} ->
        {:port, node, version(highest, lowest)}

      {:ok, <<@port2_resp, _result, _::binary>>} ->
        :noport

      {:ok, _} ->
        {:error, :noport}

      {:error, reason} ->
        {:error, reason}
    end
  end

  # What is used of a reply ends 12 bytes from its beginning, with the length of the name. OTP's client, too, discards
  # the rest.
  defp look_up_reply(<<@port2_resp, 0, rest::binary>>) when byte_size(rest) < 10, do: :incomplete
  defp look_up_reply(bytes) when bytes in ["", <<@port2_resp>>], do: :incomplete
  defp look_up_reply(_bytes), do: :complete

  @doc "The highest distribution version that this VM shares with a node of these versions; 0 if there is none."
  @spec version(non_neg_integer(), non_neg_integer()) :: non_neg_integer()
  def version(highest, lowest) do
    case versions() do
      {ours, least} when lowest > ours or highest < least -> 0
      {ours, _} -> :erlang.min(highest, ours)
    end
  end

  @doc "The highest and the lowest distribution version of the local node."
  @spec versions() :: {0..65_535, 0..65_535}
  def versions do
    {:erlang.min(variable(~c"ERL_EPMD_DIST_HIGH", @highest), @highest),
     :erlang.max(variable(~c"ERL_EPMD_DIST_LOW", @lowest), @lowest)}
  end

  defp variable(name, default) do
    with [_ | _] = value <- :os.getenv(name), {number, []} when number in 0..65_535 <- :string.to_integer(value) do
      number
    else
      _ -> default
    end
  end

  @doc "Lists the nodes registered at `ip`, the newest first. A listing of more than 16 MiB is `{:error, :too_long}`."
  @spec names(:inet.ip_address(), :inet.port_number(), timeout()) ::
          {:ok, [{binary(), :inet.port_number()}]} | {:error, atom()}
  def names(ip, port, timeout) do
    with {:ok, lines} <- listing(@names_req, ip, port, timeout), do: {:ok, nodes(lines, "\n", &names_line/1, [])}
  end

  @doc "The names that left the table of an EPMD of this host, with their ports, the first to leave first."
  @spec departed(:inet.ip_address(), :inet.port_number(), timeout()) ::
          {:ok, [{binary(), :inet.port_number()}]} | {:error, atom()}
  def departed(ip, port, timeout) do
    with {:ok, lines} <- listing(@dump_req, ip, port, timeout) do
      {:ok, nodes(lines, :binary.compile_pattern(["\n", "\0"]), &departed_line/1, [])}
    end
  end

  defp listing(request, ip, port, timeout) do
    case ask(ip, port, <<request>>, {@listing_read, &listing_reply/1}, timeout) do
      # The EPMD's own port comes first. Another program's text is no such number.
      {:ok, <<0::16, _port::16, lines::binary>>} -> {:ok, lines}
      {:ok, _} -> {:error, :address}
      {:error, reason} -> {:error, reason}
    end
  end

  # A listing has no length. The EPMD closes the connection behind it.
  defp listing_reply(<<0::16, _::binary>>), do: :until_closed
  defp listing_reply(bytes) when bytes in ["", <<0>>], do: :incomplete
  defp listing_reply(_bytes), do: :complete

  # One line after the other, since a hostile listing may have millions that name nobody.
  defp nodes(lines, separator, read, nodes) do
    case :binary.split(lines, separator) do
      [line, rest] -> nodes(rest, separator, read, read.(line) ++ nodes)
      [line] -> :lists.reverse(read.(line) ++ nodes)
    end
  end

  defp names_line(<<"name ", rest::binary>>), do: entry(:binary.split(rest, " at port "))
  defp names_line(_line), do: []

  # The number of a descriptor follows the port.
  defp departed_line(<<"old/unused name <", rest::binary>>) when byte_size(rest) <= @longest_departed do
    case :string.split(rest, ">, port = ", :trailing) do
      [name, rest] -> entry([name | :binary.split(rest, ",")])
      _ -> []
    end
  end

  defp departed_line(_line), do: []

  # A port has at most five digits. To read a longer number takes time without bound.
  defp entry([name, port | _]) when byte_size(name) <= @longest_name and byte_size(port) <= 5 do
    case :string.to_integer(port) do
      {port, ""} when port in 0..65_535 -> [{name, port}]
      _ -> []
    end
  end

  defp entry(_other), do: []

  @doc """
  Asks which port of this range a node is to listen on: the port, and one that was stepped over, each 0 if there is none,
  or `:registered` if the name is registered. `:unknown` means that the EPMD keeps no plan.
  """
  @spec plan(:inet.ip_address(), :inet.port_number(), String.t(), {:inet.port_number(), :inet.port_number()}, timeout()) ::
          {:ok, {:inet.port_number(), :inet.port_number()} | :registered} | :unknown | {:error, atom()}
  def plan(ip, port, name, {first, last}, timeout) do
    request = <<@plan_req, first::16, last::16, name::binary>>

    case ask(ip, port, request, {@look_up_read, &plan_reply/1}, timeout) do
      {:ok, <<@plan_resp, 0, port::16, other::16>>} when port == 0 or (port >= first and port <= last) ->
        {:ok, {port, other}}

      {:ok, <<@plan_resp, 1, _::binary>>} ->
        {:ok, :registered}

      {:ok, _} ->
        :unknown

      {:error, reason} ->
        {:error, reason}
    end
  end

  defp plan_reply(<<@plan_resp, rest::binary>>) when byte_size(rest) < 5, do: :incomplete
  defp plan_reply(""), do: :incomplete
  defp plan_reply(_bytes), do: :complete

  # One read brings `count` bytes at most. `judge` tells of the bytes so far whether they are all that is needed.
  defp ask(ip, port, request, {count, judge}, timeout) do
    family = if tuple_size(ip) == 8, do: :inet6, else: :inet
    deadline = if timeout == :infinity, do: :infinity, else: now() + timeout
    options = [family, :binary, active: false, packet: :raw, buffer: count]

    with {:ok, socket} <- :gen_tcp.connect(ip, port, options, timeout) do
      deadline = if deadline == :infinity, do: now() + @receive_timeout, else: deadline

      reply =
        with :ok <- :gen_tcp.send(socket, [<<byte_size(request)::16>>, request]),
             do: receive_reply(socket, deadline, judge, "")

      :gen_tcp.close(socket)
      reply
    end
  end

  defp receive_reply(socket, deadline, judge, received) do
    case judge.(received) do
      :complete ->
        {:ok, received}

      :until_closed ->
        receive_all(socket, deadline, received, byte_size(received))

      :incomplete ->
        case receive_some(socket, deadline) do
          {:ok, bytes} -> receive_reply(socket, deadline, judge, received <> bytes)
          {:error, :closed} -> {:ok, received}
          {:error, reason} -> {:error, reason}
        end
    end
  end

  defp receive_all(_socket, _deadline, _received, size) when size > @longest_listing, do: {:error, :too_long}

  defp receive_all(socket, deadline, received, size) do
    case receive_some(socket, deadline) do
      {:ok, bytes} -> receive_all(socket, deadline, [received, bytes], size + byte_size(bytes))
      {:error, :closed} -> {:ok, :erlang.iolist_to_binary(received)}
      {:error, reason} -> {:error, reason}
    end
  end

  # With a time-out of 0 what is there would still be returned, so whoever sends enough would never be timed out.
  defp receive_some(socket, deadline) do
    case deadline - now() do
      left when left > 0 -> :gen_tcp.recv(socket, 0, left)
      _ -> {:error, :timeout}
    end
  end

  defp now, do: :erlang.monotonic_time(:millisecond)
end
