defmodule EmbeddedEpmd.Discovery do
  @moduledoc """
  The `-epmd_module`: routes a node's registration and lookups to the EPMD in its own VM.

      # rel/vm.args.eex
      -start_epmd false
      -epmd_module Elixir.EmbeddedEpmd.Discovery

  OTP calls these functions; it calls `start_link/0` while `kernel` boots, before any application runs. Applications
  need not call them. The contract is OTP's "How to Implement an Alternative Node Discovery for Erlang Distribution" and
  the calls that `net_kernel`, `inet_tcp_dist` and `net_adm` make on OTP 25 to 29.

  The short-lived VMs of `bin/app rpc`, `eval`, `remote`, `stop` and `pid` never serve: there this module delegates to
  OTP's own client. It recognises such a VM by its boot script, `start_clean` or `RELEASE_BOOT_SCRIPT_CLEAN`, or by
  `RELEASE_COMMAND`.
  """

  # This code, and all that it calls, may run before Logger, IO, files and every application. CONTRIBUTING.md has the rule
  # for it ("What runs while the VM boots"), and test/boot_test.exs checks it.

  alias EmbeddedEpmd.Boot.{Client, Config, Environment, HostAddress, Interface, Lifecycle, Log, Restrictions}
  alias EmbeddedEpmd.{Endpoints, Native}

  # As long as :erl_epmd waits.
  @timeout 10_000
  # How long a lookup waits while the port changes hands, and the pause between its attempts; milliseconds.
  @change_over_timeout 4_000
  @retry_interval 5
  # How long a server may run after boot without a supervised process; milliseconds.
  @unclaimed_after 60_000

  @doc """
  Loads the native library and starts the server, which binds the port or joins its owner. The server stops when the
  distribution does. Makes the distribution listen where the node's name or the setting `:local` requires.

  Returns `:ignore`: if it returned a process, the VM would stop when that process exits. If the server cannot start
  while the VM boots, the VM stops with a sentence that gives the reason; later, that sentence is returned as the error.
  A node with a fixed port (`-erl_epmd_port`, or `erl_epmd_node_listen_port` of `kernel`) needs no EPMD and starts all
  the same.

  In a VM that never serves, it starts OTP's client and returns `{:ok, pid}`.
  """
  @spec start_link() :: {:ok, pid()} | :ignore | {:error, term()}
  def start_link do
    if Environment.client?() do
      :erl_epmd.start_link()
    else
      case Lifecycle.start(self()) do
        {:ok, _server} ->
          :erlang.spawn(__MODULE__, :await_claim, [self()])
          :ignore

        {:error, sentence} ->
          if Environment.fixed_port?(), do: continue_without_server(sentence), else: fail(sentence)
      end
    end
  end

  defp continue_without_server(sentence) do
    Log.log(:warning, [sentence, "; the node goes on without EPMD, since its port is fixed"])
    :ignore
  end

  @doc "Registers the local node until `net_kernel` exits or, if that does not run, the caller."
  @spec register_node(atom() | charlist(), :inet.port_number()) ::
          {:ok, integer()} | {:error, term()}
  def register_node(name, port), do: register_node(name, port, :inet)

  @doc """
  Registers the local node; the last argument is a driver module (OTP 25) or an address family (OTP 26 and later).

  Errors are `:already_registered`, `:duplicate_name`, `:timeout`, or a sentence. Instead of an error, a node with a
  fixed port gets the creation -1, for which `net_kernel` draws a random one.
  """
  @spec register_node(atom() | charlist(), :inet.port_number(), atom()) ::
          {:ok, integer()} | {:error, term()}
  def register_node(name, port, family) do
    if :erlang.whereis(:erl_epmd) == :undefined do
      with {:error, reason} when reason != :already_registered <- Lifecycle.register(to_binary(name), advertised(port)),
           false <- Environment.fixed_port?() do
        if is_binary(reason), do: fail(reason), else: {:error, reason}
      else
        true -> {:ok, -1}
        answer -> answer
      end
    else
      :erl_epmd.register_node(name, port, family)
    end
  end

  defp advertised(port) do
    case Config.get(:advertised_port, Lifecycle.options()) do
      nil -> port
      advertised -> advertised
    end
  end

  @typedoc "The port of a node and the version of its distribution, or what OTP's client says where there is none."
  @type answer :: {:port, :inet.port_number(), version :: non_neg_integer()} | :noport | :closed | {:error, atom()}

  @doc "Looks up the port of a node at the address of its host."
  @spec port_please(charlist(), :inet.ip_address() | charlist()) :: answer()
  def port_please(name, host), do: port_please(name, host, @timeout)

  @doc """
  Looks up the port of a node at the address of its host. The answer comes from memory if this VM serves that address,
  or if it has a replica of the table of that address's owner and the replica has the name. Otherwise it asks over TCP.

  While the port of this host changes hands, a lookup on this host waits for the next owner, for up to 4 seconds and
  never longer than `timeout`.

  A connection that `EmbeddedEpmd.Cluster` makes gets `{:error, :eacces}` for a node of a user whom that does not
  trust.
  """
  @spec port_please(charlist(), :inet.ip_address() | charlist(), timeout()) :: answer()
  def port_please(name, host, timeout) do
    with {:ok, ip} <- address(host),
         {:port, port, version, user} <- find(name, ip, timeout) do
      if Restrictions.admit?(to_binary(name), ip, port, user), do: {:port, port, version}, else: {:error, :eacces}
    end
  end

  # The answer, with the user of the node if that is known.
  defp find(name, ip, timeout) do
    case Lifecycle.latest() do
      {server, :ports} ->
        resolve(lookup(server, ip, to_binary(name)), server, ip, to_binary(name), deadlines(timeout))

      _ ->
        unvouched(:erl_epmd.port_please(name, ip, timeout))
    end
  end

  defp lookup(server, ip, name) do
    Native.lookup(server, ip, name)
  rescue
    # Native raises if its library was reloaded since the server started, or is not loaded at all.
    _ in [ArgumentError, ErlangError] -> :stopped
  end

  # Until when an answer is wanted, and until when the next owner of the port is asked for it. In Erlang's term order
  # every number is less than :infinity.
  defp deadlines(timeout) do
    now = now()
    {if(timeout == :infinity, do: :infinity, else: now + timeout), now + :erlang.min(timeout, @change_over_timeout)}
  end

  defp resolve(answer, server, ip, name, {wanted_until, _} = deadlines) do
    case answer do
      {:port, port, highest, lowest, user} ->
        {:port, port, Client.version(highest, lowest), user}

      :noport ->
        :noport

      :stopped ->
        unvouched(:erl_epmd.port_please(:unicode.characters_to_list(name), ip, left(wanted_until)))

      :elsewhere ->
        unvouched(Client.port(name, ip, port(server), left(wanted_until)))

      # The owner may have just ended: then another VM takes the port.
      :owner ->
        with {:error, reason} <- unvouched(Client.port(name, ip, port(server), left(wanted_until))),
             do: retry(reason, server, ip, name, deadlines)

      :unsettled ->
        retry(:econnrefused, server, ip, name, deadlines)
    end
  end

  defp retry(reason, server, ip, name, {_, retried_until} = deadlines) do
    if now() < retried_until do
      :timer.sleep(@retry_interval)

      with :stopped <- lookup(server, ip, name) do
        {:error, reason}
      else
        answer -> resolve(answer, server, ip, name, deadlines)
      end
    else
      {:error, reason}
    end
  end

  defp unvouched({:port, port, version}), do: {:port, port, version, nil}
  defp unvouched(answer), do: answer

  @doc "Lists the nodes of this host."
  @spec names() :: {:ok, [{charlist(), :inet.port_number()}]} | {:error, atom()}
  def names do
    {:ok, host} = :inet.gethostname()
    names(host)
  end

  @doc """
  Lists the nodes of a host, in the order of OTP's client: the oldest registration first.

  Errors are those of the name's resolution, such as `:nxdomain`, and `:address` where nobody answers.
  """
  @spec names(atom() | charlist() | :inet.ip_address()) ::
          {:ok, [{charlist(), :inet.port_number()}]} | {:error, atom()}
  def names(host) do
    with {:ok, server} <- Lifecycle.server(),
         {:ok, ip} <- address(host) do
      case names_at(server, ip) do
        {:ok, names} -> {:ok, :lists.reverse(:lists.map(fn {name, port} -> {characters(name), port} end, names))}
        {:error, _} -> {:error, :address}
      end
    else
      :none -> :erl_epmd.names(host)
      {:error, reason} -> {:error, reason}
    end
  end

  # Another EPMD may have names that are not UTF-8.
  defp characters(name) do
    case :unicode.characters_to_list(name) do
      characters when is_list(characters) -> characters
      _ -> :erlang.binary_to_list(name)
    end
  end

  @doc """
  Returns the address of a node: address and port from `:endpoints` if these name it, otherwise the address of its host,
  as OTP's client resolves it.
  """
  @spec address_please(charlist(), charlist(), :inet | :inet6) ::
          {:ok, :inet.ip_address()}
          | {:ok, :inet.ip_address(), :inet.port_number(), version :: non_neg_integer()}
          | {:error, :inet.posix()}
  def address_please(name, host, family) do
    case Endpoints.find(endpoints(), name, host, family) do
      {:ok, ip, port} -> {:ok, ip, port, elem(Client.versions(), 0)}
      {:error, reason} -> {:error, reason}
      :none -> :erl_epmd.address_please(name, host, family)
    end
  end

  # It is called during each connection: it must not raise.
  defp endpoints do
    Config.get(:endpoints, Lifecycle.options())
  rescue
    error in ArgumentError ->
      Log.log(:error, error.message)
      []
  end

  @doc """
  Returns the port to listen on for distribution: the fixed one, which OTP's client reads from the flag and the
  parameter, one of `:ports`, or 0 for any. Sets the address to listen at as `start_link/0` does, for a node whose name
  was not known then.
  """
  @spec listen_port_please(atom() | charlist(), charlist()) :: {:ok, :inet.port_number()} | {:error, String.t()}
  def listen_port_please(name, host) do
    if not Environment.client?(), do: choose_interface(host)

    with {:ok, 0} <- :erl_epmd.listen_port_please(name, host),
         {:error, sentence} <- Lifecycle.listen_port(to_binary(name)),
         do: fail(sentence)
  end

  # `start_link/0` has done so for a VM that boots as a node. Of one that becomes a node later, OTP tells the name only
  # here; OTP 25 has read its parameters before.
  defp choose_interface(host) do
    with {:error, sentence} <- Interface.choose(host, Config.get(:local, Lifecycle.options())),
         do: Log.log(:error, sentence)
  rescue
    error in ArgumentError -> Log.log(:error, error.message)
  end

  defp port(server), do: Native.status(server).port

  defp names_at(server, ip) do
    case Native.place(server, ip) != :elsewhere and Native.names(server) do
      names when is_list(names) -> {:ok, :lists.map(fn {name, port, _user} -> {name, port} end, names)}
      _ -> Client.names(ip, port(server), @timeout)
    end
  end

  defp address(ip) when is_tuple(ip), do: {:ok, ip}

  defp address(host), do: HostAddress.resolve(host)

  defp left(:infinity), do: :infinity
  defp left(deadline), do: :erlang.max(0, deadline - now())

  defp now, do: :erlang.monotonic_time(:millisecond)

  defp to_binary(name) when is_atom(name), do: :erlang.atom_to_binary(name)
  defp to_binary(name), do: :unicode.characters_to_binary(name)

  @doc false
  # Has no term that refers to the server, which that would keep alive. Waits without running a version of this module:
  # whoever purges that version after an update kills who runs it.
  def await_claim(keeper) do
    :erlang.send_after(@unclaimed_after, self(), :time)
    :erlang.hibernate(__MODULE__, :warn_when_unclaimed, [keeper])
  end

  @doc false
  def warn_when_unclaimed(keeper) do
    if :erlang.is_process_alive(keeper) and :erlang.whereis(EmbeddedEpmd.Server) == :undefined do
      Log.log(
        :warning,
        "nobody supervises the server of this VM: add EmbeddedEpmd to the children of your application's supervisor"
      )
    end
  end

  # While the VM boots, a returned error would end it with pages of reports that hide the sentence.
  defp fail(sentence) do
    if Environment.booting?() do
      stderr = :erlang.open_port({:fd, 0, 2}, [:out, :binary])
      :erlang.port_command(stderr, [sentence, ?\n])
      # With `-detached` nobody reads that, but the slogan of a crash dump stays.
      if Environment.unheard?(), do: :erlang.halt(slogan(sentence)), else: :erlang.halt(1)
    else
      {:error, sentence}
    end
  end

  # It has characters of Latin-1 only.
  defp slogan(sentence) do
    :lists.map(
      fn character -> if character < 256, do: character, else: ?? end,
      :unicode.characters_to_list(sentence)
    )
  end
end
