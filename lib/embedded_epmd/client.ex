defmodule EmbeddedEpmd.Client do
  @moduledoc false
  # Look-ups over TCP. OTP's :erl_epmd knows only the port of -epmd_port; ours may come from the application
  # environment. This code runs while the VM boots, so it uses plain functions only.

  @port_please2_req ?z
  @names_req ?n
  @dump_req ?d
  @port2_resp ?w
  # The distribution versions that we know; OTP 23 introduced the highest. OTP's client lets the environment narrow
  # them.
  @highest 6
  @lowest 5
  # How long to wait for an answer if the timeout is :infinity, in milliseconds: :erl_epmd never waits longer.
  @receive_timeout 10_000

  @type answer :: {:port, :inet.port_number(), version :: non_neg_integer()} | :noport

  @doc "Looks up the port of a node. Errors are those of `:erl_epmd`."
  @spec port(charlist() | String.t(), :inet.ip_address(), :inet.port_number(), timeout()) ::
          answer() | {:error, atom()}
  def port(name, ip, port, timeout) do
    case ask(ip, port, [@port_please2_req, name], timeout) do
      {:ok, <<@port2_resp, 0, node::16, _type, _protocol, highest::16, lowest::16, _::binary>>} ->
        {:port, node, version(highest, lowest)}

      {:ok, <<@port2_resp, _::binary>>} ->
        :noport

      {:ok, _} ->
        {:error, :noport}

      {:error, reason} ->
        {:error, reason}
    end
  end

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

  @doc "Lists the nodes registered at `ip`, the newest first."
  @spec names(:inet.ip_address(), :inet.port_number(), timeout()) ::
          {:ok, [{String.t(), :inet.port_number()}]} | {:error, atom()}
  def names(ip, port, timeout) do
    case ask(ip, port, [@names_req], timeout) do
      # The EPMD's own port comes first. Another program's text is no such number.
      {:ok, <<0::16, _port::16, lines::binary>>} ->
        {:ok, :lists.filtermap(&line/1, :binary.split(lines, "\n", [:global]))}

      {:ok, _} ->
        {:error, :address}

      {:error, reason} ->
        {:error, reason}
    end
  end

  defp line(line) do
    with [<<"name ", name::binary>>, port] <- :binary.split(line, " at port "),
         {port, ""} <- :string.to_integer(port) do
      {true, {name, port}}
    else
      _ -> false
    end
  end

  @doc "The names that left the table of an EPMD of this host, with their ports, the first to leave first."
  @spec departed(:inet.ip_address(), :inet.port_number(), timeout()) ::
          {:ok, [{String.t(), :inet.port_number()}]} | {:error, atom()}
  def departed(ip, port, timeout) do
    with {:ok, <<0::16, _port::16, lines::binary>>} <- ask(ip, port, [@dump_req], timeout) do
      {:ok, :lists.filtermap(&departed_line/1, :binary.split(lines, ["\n", "\0"], [:global]))}
    else
      {:ok, _} -> {:error, :address}
      {:error, reason} -> {:error, reason}
    end
  end

  defp departed_line(<<"old/unused name <", rest::binary>>) do
    with [name, rest] <- :string.split(rest, ">, port = ", :trailing),
         {port, _} when is_integer(port) <- :string.to_integer(rest) do
      {true, {name, port}}
    else
      _ -> false
    end
  end

  defp departed_line(_line), do: false

  # The EPMD closes the connection after its reply.
  defp ask(ip, port, request, timeout) do
    family = if tuple_size(ip) == 8, do: :inet6, else: :inet
    deadline = if timeout == :infinity, do: :infinity, else: now() + timeout

    with {:ok, socket} <-
           :gen_tcp.connect(ip, port, [family, :binary, active: false, packet: :raw], timeout) do
      body = :unicode.characters_to_binary(request)

      reply =
        with :ok <- :gen_tcp.send(socket, [<<byte_size(body)::16>>, body]) do
          receive_all(socket, deadline, [])
        end

      :gen_tcp.close(socket)
      reply
    end
  end

  defp receive_all(socket, deadline, received) do
    case :gen_tcp.recv(socket, 0, left(deadline)) do
      {:ok, bytes} -> receive_all(socket, deadline, [received | bytes])
      {:error, :closed} -> {:ok, :erlang.iolist_to_binary(received)}
      {:error, reason} -> {:error, reason}
    end
  end

  defp left(:infinity), do: @receive_timeout
  defp left(deadline), do: :erlang.max(0, deadline - now())

  defp now, do: :erlang.monotonic_time(:millisecond)
end
