defmodule EmbeddedEpmd.Discovery do
  @moduledoc """
  The `-epmd_module`: routes a node's registration and look-ups to the EPMD in its own VM.

      # rel/vm.args.eex
      -start_epmd false
      -epmd_module Elixir.EmbeddedEpmd.Discovery

  OTP calls these functions, the first of them while `kernel` boots, before any application runs. Nobody else needs to.
  The contract is OTP's "How to Implement an Alternative Node Discovery for Erlang Distribution" and the calls that
  `net_kernel`, `inet_tcp_dist` and `net_adm` make on OTP 25 to 29.

  In a VM that boots `start_clean`, as `bin/app rpc` and its like do, the module is a client only.
  """

  # What runs here may run before Logger, IO, files and every application: plain functions, no protocols.

  alias EmbeddedEpmd.{Client, Config, Native}

  # As long as :erl_epmd waits.
  @timeout 10_000
  # How long a look-up outlasts a port that changes hands, and how often it asks meanwhile; milliseconds.
  @change_over 2_000
  @change_over_pause 5
  # How long a server may run at boot before somebody should have claimed it.
  @unclaimed_after 60_000

  ## Called by OTP

  @doc """
  Loads the native library and starts the server, which binds the port or joins whoever serves it.

  Returns `:ignore`: the VM ends with whatever process a discovery module returns here, so there is none. If the server
  cannot start while the VM boots, the VM stops with a sentence that says why.
  """
  @spec start_link() :: :ignore | {:error, term()}
  def start_link do
    if client_only?() do
      :ignore
    else
      case ensure_server([]) do
        {:ok, server} ->
          # The process that supervises it later claims what it starts itself.
          :erlang.spawn(fn -> warn_when_unclaimed(server) end)
          :ignore

        {:error, sentence} ->
          refuse(sentence, :init.get_status())
      end
    end
  end

  @doc "Registers the local node. The registration ends with the calling process, `net_kernel`."
  @spec register_node(atom() | charlist(), :inet.port_number()) ::
          {:ok, integer()} | {:error, term()}
  def register_node(name, port), do: register_node(name, port, :inet)

  @doc "Registers the local node; the last argument is a driver module (OTP 25) or an address family (OTP 26 and later)."
  @spec register_node(atom() | charlist(), :inet.port_number(), atom()) ::
          {:ok, integer()} | {:error, term()}
  def register_node(name, port, family) do
    case server() do
      :none ->
        :erl_epmd.register_node(name, port, family)

      {:ok, server} ->
        name = to_binary(name)

        case Native.register(server, name, port, nil, self()) do
          {:ok, creation} ->
            :persistent_term.put({__MODULE__, :node}, {name, port, creation})
            {:ok, creation}

          {:error, reason} ->
            # With a fixed port nobody needs to find the node, so OTP's client goes on with a creation by chance.
            if :init.get_argument(:erl_epmd_port) == :error, do: {:error, reason}, else: {:ok, -1}
        end
    end
  end

  @doc "Looks up the port of a node at an address."
  @spec port_please(charlist(), :inet.ip_address() | charlist()) ::
          Client.answer() | {:error, atom()}
  def port_please(name, ip), do: port_please(name, ip, @timeout)

  @doc """
  Looks up the port of a node at an address: in memory if that is where this VM serves, over TCP otherwise.

  While the host's port changes hands, a look-up there waits for the next owner: at most 2 seconds, and never longer
  than `timeout`.
  """
  @spec port_please(charlist(), :inet.ip_address() | charlist(), timeout()) ::
          Client.answer() | {:error, atom()}
  def port_please(name, ip, timeout) do
    with {:ok, server} when is_tuple(ip) <- server(),
         {:ok, 0} <- :erl_epmd.listen_port_please(name, ip) do
      find(server, ip, to_binary(name), timeout, now() + :erlang.min(timeout, @change_over))
    else
      _ -> :erl_epmd.port_please(name, ip, timeout)
    end
  end

  defp find(server, ip, name, timeout, deadline) do
    again = fn -> find(server, ip, name, timeout, deadline) end

    case Native.lookup(server, ip, name) do
      {:port, port, highest, lowest} ->
        {:port, port, Client.version(highest, lowest)}

      :noport ->
        :noport

      :elsewhere ->
        Client.port(name, ip, port(server), timeout)

      # Whoever served the host's port and has gone is followed by another.
      :owner ->
        with {:error, reason} <- Client.port(name, ip, port(server), timeout),
             do: until(deadline, server, reason, again)

      :unsettled ->
        until(deadline, server, :econnrefused, again)
    end
  end

  defp until(deadline, server, reason, again) do
    if now() < deadline and running?(server) do
      :timer.sleep(@change_over_pause)
      again.()
    else
      {:error, reason}
    end
  end

  @doc "Lists the nodes of this host."
  @spec names() :: {:ok, [{charlist(), :inet.port_number()}]} | {:error, atom()}
  def names do
    {:ok, host} = :inet.gethostname()
    names(host)
  end

  @doc "Lists the nodes of a host."
  @spec names(atom() | charlist() | :inet.ip_address()) ::
          {:ok, [{charlist(), :inet.port_number()}]} | {:error, atom()}
  def names(host) do
    with {:ok, server} <- server(),
         {:ok, ip} <- address(host),
         {:ok, names} <- names_at(server, ip) do
      {:ok, :lists.map(fn {name, port} -> {:unicode.characters_to_list(name), port} end, names)}
    else
      :none -> :erl_epmd.names(host)
      {:error, _} -> {:error, :address}
    end
  end

  @doc "Resolves a host name; OTP's client does it well."
  @spec address_please(charlist(), charlist(), :inet | :inet6) :: term()
  def address_please(name, host, family), do: :erl_epmd.address_please(name, host, family)

  @doc "The port to listen on for distribution; OTP's client knows `-erl_epmd_port`."
  @spec listen_port_please(atom(), charlist()) :: {:ok, :inet.port_number()}
  def listen_port_please(name, host), do: :erl_epmd.listen_port_please(name, host)

  ## Called by EmbeddedEpmd

  @doc false
  # The server of this VM, if one has been started and still runs.
  @spec server() :: {:ok, Native.server()} | :none
  def server do
    case :persistent_term.get({__MODULE__, :server}, :none) do
      :none -> :none
      server -> if running?(server), do: {:ok, server}, else: :none
    end
  end

  @doc false
  # The server of this VM, started if there is none, with the local node registered if there is one.
  @spec ensure_server(keyword()) :: {:ok, Native.server()} | {:error, String.t()}
  def ensure_server(options) do
    case server() do
      {:ok, server} -> {:ok, server}
      :none -> start_server(options)
    end
  end

  defp start_server(options) do
    with :ok <- load(),
         {:ok, config} <- config(options),
         {:ok, server} <- start(config) do
      :persistent_term.put({__MODULE__, :server}, server)
      restore_node(server)
      {:ok, server}
    end
  end

  defp load do
    case Native.load() do
      :ok ->
        :ok

      {:error, {file, reason}} ->
        {:error,
         :unicode.characters_to_binary([
           "embedded_epmd: the native library ",
           file,
           " cannot be loaded: ",
           reason,
           "; rebuild the release for this machine (mix deps.compile embedded_epmd --force, then mix release)"
         ])}
    end
  end

  defp config(options) do
    {:ok, Config.load(options)}
  rescue
    error in ArgumentError -> {:error, error.message}
  end

  defp start(config) do
    case Native.start(config, :erlang.whereis(:kernel_sup)) do
      {:ok, server} -> {:ok, server}
      {:error, {_, sentence}} -> {:error, "embedded_epmd: " <> sentence}
    end
  end

  # A server that is started again finds the node running, with the creation that it booted with.
  defp restore_node(server) do
    with {name, port, creation} <- :persistent_term.get({__MODULE__, :node}, :none),
         true <- :erlang.is_alive(),
         pid when is_pid(pid) <- :erlang.whereis(:net_kernel) do
      Native.register(server, name, port, creation, pid)
    end
  end

  # The thread may have ended; a library that was loaded anew does not know the resources of its predecessor.
  defp running?(server) do
    Native.status(server).role != :stopped
  rescue
    ArgumentError -> false
  end

  defp port(server), do: Native.status(server).port

  defp names_at(server, ip) do
    case Native.place(server, ip) == :serving and Native.names(server) do
      names when is_list(names) -> {:ok, names}
      _ -> Client.names(ip, port(server), @timeout)
    end
  end

  defp address(ip) when is_tuple(ip), do: {:ok, ip}

  defp address(host) do
    with {:error, _} <- :inet.getaddr(host, :inet), do: :inet.getaddr(host, :inet6)
  end

  defp now, do: :erlang.monotonic_time(:millisecond)

  defp to_binary(name) when is_atom(name), do: :erlang.atom_to_binary(name)
  defp to_binary(name), do: :unicode.characters_to_binary(name)

  # `bin/app rpc`, `remote`, `stop` and `pid` boot a short-lived VM; it must not take the port.
  defp client_only? do
    case :init.get_argument(:boot) do
      {:ok, [[boot | _] | _]} -> :filename.basename(boot) == ~c"start_clean"
      _ -> false
    end
  end

  defp warn_when_unclaimed(server) do
    :timer.sleep(@unclaimed_after)

    if server() == {:ok, server} and :erlang.whereis(EmbeddedEpmd.Server) == :undefined do
      :logger.warning(
        ~c"embedded_epmd serves this VM, but nobody supervises it: add EmbeddedEpmd to the children of your application's supervisor"
      )
    end
  end

  # While the VM boots a returned error would end it in a page of reports; the sentence alone says more.
  defp refuse(sentence, {:started, _}), do: {:error, sentence}

  defp refuse(sentence, _booting) do
    stderr = :erlang.open_port({:fd, 0, 2}, [:out, :binary])
    :erlang.port_command(stderr, [sentence, ?\n])
    :erlang.halt(1)
  end
end
