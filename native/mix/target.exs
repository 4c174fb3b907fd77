defmodule EmbeddedEpmd.Build.Target do
  @moduledoc false
  # The machine that the library is for, as rustc names it, and what a file says about that.

  @doc """
  `{:named, triple}` where the environment names it, by `CARGO_BUILD_TARGET` or as Nerves does, else `{:vm, triple}`:
  the machine of this VM.
  """
  def find(environment \\ System.get_env(), architecture \\ architecture(), processor \\ &processor/0) do
    vm = normalize(split(architecture), processor)
    nerves = nerves(environment, split(architecture))

    cond do
      named = value(environment, "CARGO_BUILD_TARGET") -> {:named, Path.basename(named, ".json")}
      nerves not in [nil, vm] -> {:named, nerves}
      true -> {:vm, vm}
    end
  end

  @doc "The environment for cargo to link for this target: what Nerves or Debian has for it, unless cargo was told."
  def linker(triple, environment \\ System.get_env(), find \\ &System.find_executable/1) do
    variable = linker_variable(triple)

    cond do
      value(environment, variable) -> []
      linker = compiler(environment, find) || find.(gnu_triple(triple) <> "-gcc") -> [{variable, linker}]
      true -> []
    end
  end

  def linker_variable(triple) do
    "CARGO_TARGET_#{triple |> String.upcase() |> String.replace(~r/[-.]/, "_")}_LINKER"
  end

  @doc "Whether a library is whole, and of the machine of this target; `:unknown` for a kind that is not known here."
  def check(library, triple) do
    case {header(library), expected(triple)} do
      {_, nil} ->
        :unknown

      {{:ok, machine, libc}, expected} ->
        if expected in [{machine, libc}, {machine, :any}], do: :ok, else: wrong(machine, libc)

      {error, _} ->
        error
    end
  end

  defp wrong(machine, libc), do: {:error, "is for #{Enum.join([machine | libc(libc)], ", ")}"}
  defp libc(:none), do: []
  defp libc(libc), do: ["#{libc}"]

  defp architecture, do: List.to_string(:erlang.system_info(:system_architecture))

  defp processor do
    case System.find_executable("uname") && System.cmd("uname", ["-m"]) do
      {machine, 0} -> String.trim(machine)
      _ -> ""
    end
  end

  # The vendor is left out: it is the distribution's, and rustc has its own.
  defp split(architecture) do
    case String.split(architecture, "-") do
      [cpu, _vendor, os | abi] -> {cpu, os, abi}
      [cpu, os] -> {cpu, os, []}
      [cpu] -> {cpu, "unknown", []}
    end
    |> then(fn
      {cpu, abi, []} when abi in ["gnu", "musl"] -> {cpu, "linux", abi}
      {cpu, os, abi} -> {cpu, os, Enum.join(abi, "-")}
    end)
  end

  defp nerves(environment, {_, os, abi}) do
    if arch = value(environment, "TARGET_ARCH") do
      os = value(environment, "TARGET_OS") || os
      abi = value(environment, "TARGET_ABI") || abi
      normalize({arch, os, abi}, fn -> environment["TARGET_CPU"] || "" end)
    end
  end

  defp normalize({cpu, os, abi}, processor) do
    abi = if abi == "" and os == "linux", do: "gnu", else: abi

    case {cpu(cpu), os} do
      {"arm", "darwin" <> _} -> "aarch64-apple-darwin"
      {cpu, "darwin" <> _} -> "#{cpu}-apple-darwin"
      {"arm", "linux"} -> "#{arm(processor.())}-unknown-linux-#{abi}"
      {cpu, "linux"} -> "#{cpu}-unknown-linux-#{abi}"
      {cpu, os} -> "#{cpu}-unknown-#{String.replace(os, ~r/[0-9.]+$/, "")}"
    end
  end

  defp cpu("amd64"), do: "x86_64"
  defp cpu("arm64"), do: "aarch64"
  defp cpu("armv" <> _), do: "arm"
  defp cpu("riscv64"), do: "riscv64gc"
  defp cpu(cpu), do: cpu

  # Debian and Raspberry Pi OS give one name to ARMv7 and ARMv6, which dies of the code of the other.
  defp arm(processor) do
    if processor =~ ~r/^(armv[78]|aarch64|cortex_a)/, do: "armv7", else: "arm"
  end

  # Cargo takes one program, no arguments. Only where a cross compiler is set does CC mean the target's.
  defp compiler(environment, find) do
    compiler = value(environment, "CC")
    if compiler && (value(environment, "TARGET_ARCH") || value(environment, "CROSSCOMPILE")), do: find.(compiler)
  end

  defp gnu_triple(triple) do
    case String.split(triple, "-") do
      [cpu, _, os, abi] -> Enum.join([gnu_cpu(cpu), os, abi], "-")
      _ -> triple
    end
  end

  defp gnu_cpu("armv7"), do: "arm"
  defp gnu_cpu("riscv64gc"), do: "riscv64"
  defp gnu_cpu(cpu), do: cpu

  defp expected(triple) do
    machine = machine(triple |> String.split("-") |> hd())

    cond do
      machine == nil -> nil
      triple =~ "-linux-musl" -> {machine, :musl}
      triple =~ "-linux-gnu" -> {machine, :glibc}
      triple =~ "-darwin" -> {machine, :none}
      triple =~ "bsd" -> {machine, :any}
      true -> nil
    end
  end

  defp machine("arm" <> _), do: "arm"
  defp machine("riscv64" <> _), do: "riscv64"
  defp machine(cpu) when cpu in ["x86_64", "aarch64"], do: cpu
  defp machine(_), do: nil

  # ELF, 64 and 32 bits, little-endian; e_machine, e_shoff, e_shentsize and e_shnum of the header.
  defp header(
         <<127, "ELF", 2, 1, _::binary-12, machine::little-16, _::binary-20, offset::little-64, _::binary-10,
           size::little-16, count::little-16, _::binary>> = file
       ),
       do: elf(file, machine, offset + size * count)

  defp header(
         <<127, "ELF", 1, 1, _::binary-12, machine::little-16, _::binary-12, offset::little-32, _::binary-10,
           size::little-16, count::little-16, _::binary>> = file
       ),
       do: elf(file, machine, offset + size * count)

  defp header(<<0xFEEDFACF::little-32, 0x01000007::little-32, _::binary>>), do: {:ok, "x86_64", :none}
  defp header(<<0xFEEDFACF::little-32, 0x0100000C::little-32, _::binary>>), do: {:ok, "aarch64", :none}
  defp header(_), do: {:error, "is no library"}

  defp elf(file, _, ends_at) when byte_size(file) < ends_at, do: {:error, "ends too early"}

  defp elf(file, machine, _) do
    libc = if :binary.match(file, <<0, "libc.so.6", 0>>) == :nomatch, do: :musl, else: :glibc

    {:ok, Map.get(%{62 => "x86_64", 183 => "aarch64", 40 => "arm", 243 => "riscv64"}, machine, "machine #{machine}"),
     libc}
  end

  defp value(environment, name), do: if(environment[name] not in [nil, ""], do: environment[name])
end
