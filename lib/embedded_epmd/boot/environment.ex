defmodule EmbeddedEpmd.Boot.Environment do
  @moduledoc false
  # What kind of VM this is, according to OTP, the command line and a release's script.

  # Only the name: this module is below it.
  @discovery :"Elixir.EmbeddedEpmd.Discovery"

  # Commands of a release's script that boot a short-lived VM beside the release.
  @client_commands [~c"eval", ~c"rpc", ~c"remote", ~c"stop", ~c"pid", ~c"restart"]

  @doc "Whether OTP uses `Discovery` when this VM becomes a node."
  @spec routed?() :: boolean()
  def routed? do
    :net_kernel.epmd_module() == @discovery
  rescue
    # Flag and parameter are both set, or the parameter is no atom: this VM cannot become a node.
    _ -> false
  end

  @doc """
  Makes OTP use `Discovery` from now on, unless another module is configured; returns whether it does.

  OTP 27.2 and later read the `kernel` parameter. If the flag is set as well, the VM cannot become a node.
  """
  @spec route() :: boolean()
  def route do
    if :init.get_argument(:epmd_module) == :error and :application.get_env(:kernel, :epmd_module) == :undefined do
      :application.set_env(:kernel, :epmd_module, @discovery)
      routed?() or unroute()
    else
      routed?()
    end
  end

  defp unroute do
    :application.unset_env(:kernel, :epmd_module)
    false
  end

  @doc """
  Whether this is a short-lived VM that must not serve: it boots a clean script, or a command such as `rpc` of a
  release's script booted it.
  """
  @spec client?() :: boolean()
  def client? do
    case :init.get_argument(:boot) do
      {:ok, [[script | _] | _]} -> clean?(:filename.basename(script)) or (releases?(script) and client_command?())
      _ -> false
    end
  end

  defp clean?(name), do: name == ~c"start_clean" or name == :os.getenv(~c"RELEASE_BOOT_SCRIPT_CLEAN")

  # VMs that the release's VM starts inherit RELEASE_COMMAND, but they do not boot the release's scripts.
  defp releases?(script) do
    with [_ | _] = root <- :os.getenv(~c"RELEASE_ROOT"),
         [_ | _] = version <- :os.getenv(~c"RELEASE_VSN") do
      :filename.dirname(script) == :filename.join([root, ~c"releases", version])
    else
      _ -> false
    end
  end

  defp client_command?, do: :lists.member(:os.getenv(~c"RELEASE_COMMAND"), @client_commands)

  @doc "Whether this VM is a node, or will get a name from the first node that it connects to."
  @spec distributed?() :: boolean()
  def distributed?, do: :erlang.whereis(:net_kernel) != :undefined

  @doc "Whether the node has a fixed distribution port, so that it needs no EPMD."
  @spec fixed_port?() :: boolean()
  def fixed_port? do
    :init.get_argument(:erl_epmd_port) != :error or :erl_epmd.listen_port_please(~c"", ~c"") != {:ok, 0}
  end

  @doc "Whether `kernel` is still booting: if the distribution fails to start then, the VM ends."
  @spec booting?() :: boolean()
  def booting?, do: :erlang.whereis(:kernel_safe_sup) == :undefined

  @doc "Whether the VM is stopping."
  @spec stopping?() :: boolean()
  def stopping?, do: match?({:stopping, _}, :init.get_status())

  @doc "Whether what is written to standard error is lost, as with `-detached`, which leads it to the null device."
  @spec unheard?() :: boolean()
  def unheard?, do: device(~c"/dev/fd/2") == device(~c"/dev/null")

  defp device(file) do
    with {:ok, info} <- :file.read_file_info(file, [:raw]), do: {:device, elem(info, 9), elem(info, 10)}
  end

  @doc """
  The host of this node's name; before it has one, that of the name with which it boots. `:unknown` if it has none, or
  OTP is to complete a long one.
  """
  @spec host() :: charlist() | :unknown
  def host do
    case :erlang.node() do
      :nonode@nohost -> named(:init.get_argument(:sname), :init.get_argument(:name))
      node -> host_of(:erlang.atom_to_list(node), :unknown)
    end
  end

  # OTP looks at -sname first, and takes the first value.
  defp named({:ok, [[name | _] | _]}, _), do: host_of(name, :inet_db.gethostname())
  defp named(_, {:ok, [[name | _] | _]}), do: host_of(name, :unknown)
  defp named(_, _), do: :unknown

  defp host_of(name, completed) do
    case :string.split(name, ~c"@") do
      [_, host] -> host
      _ -> completed
    end
  end

  @doc "What carries the distribution: OTP's own module for one protocol, or one of those of `-proto_dist inet_epmd`."
  @spec carrier() :: :own | :inet_epmd
  def carrier, do: if(protocol() == ~c"inet_epmd", do: :inet_epmd, else: :own)

  @doc "Whether the distribution is over TLS."
  @spec tls?() :: boolean()
  def tls? do
    case carrier() do
      :own -> :lists.suffix(~c"_tls", protocol())
      :inet_epmd -> of_inet_epmd() == ~c"tls_socket"
    end
  end

  @doc "Whether the distribution speaks TCP or TLS as OTP does."
  @spec examinable?() :: boolean()
  def examinable? do
    case carrier() do
      :own -> :lists.member(protocol(), [~c"inet_tcp", ~c"inet6_tcp", ~c"inet_tls", ~c"inet6_tls"])
      :inet_epmd -> :lists.member(of_inet_epmd(), [~c"socket", ~c"tls_socket"])
    end
  end

  defp of_inet_epmd, do: flag(:inet_epmd, ~c"")

  @doc "The address family of the distribution. With `:inet6` OTP's client registers at ::1, otherwise at 127.0.0.1."
  @spec family() :: :inet | :inet6
  def family, do: if(:lists.prefix(~c"inet6", protocol()), do: :inet6, else: :inet)

  @doc "The protocol of the distribution: the first `-proto_dist`, as for OTP."
  @spec protocol() :: charlist()
  def protocol, do: flag(:proto_dist, ~c"inet_tcp")

  defp flag(name, default) do
    case :init.get_argument(name) do
      {:ok, [[value | _] | _]} -> value
      _ -> default
    end
  end
end
