defmodule EmbeddedEpmd.Environment do
  @moduledoc false
  # What kind of VM this is, according to OTP, the command line and a release's script. This code runs while the VM
  # boots, so it uses plain functions only.

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

  @doc "Whether the distribution is over TLS."
  @spec tls?() :: boolean()
  def tls? do
    case :init.get_argument(:proto_dist) do
      {:ok, [[protocol | _] | _]} -> :lists.suffix(~c"_tls", protocol)
      _ -> false
    end
  end

  @doc "The address family of the distribution. With `:inet6` OTP's client registers at ::1, otherwise at 127.0.0.1."
  @spec family() :: :inet | :inet6
  def family do
    with {:ok, [[protocol | _] | _]} <- :init.get_argument(:proto_dist),
         true <- :lists.prefix(~c"inet6", protocol) do
      :inet6
    else
      _ -> :inet
    end
  end
end
