"""O ajuste fino de verdade, numa execução pequena: o que treina, o que fica parado e como continua."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import RAIZ

TREINO, VALIDACAO = np.arange(64), np.arange(1600, 1632)


def ajusta(nb, amostra, backbone, cabeca, pasta):
    return nb.ajusta_fino(amostra, backbone, cabeca, TREINO, VALIDACAO, 32, 2, 0, pasta, "r")


class Interrompido(Exception):
    pass


@pytest.fixture(scope="module")
def cabeca(nb, caracteristicas, tmp_path_factory):
    X, y = caracteristicas
    return nb.treina_cabeca(X, y, range(1600), range(1600, 1800), 32, 100, tmp_path_factory.mktemp("cabeca"), "r")[0]


def test_ajuste_fino_treina_so_o_alto_e_retomado_da_o_mesmo(nb, amostra, backbone, cabeca, tmp_path, monkeypatch):
    antes = [p.copy() for p in backbone.get_weights()]
    novo, nova_cabeca, historico, *_ = ajusta(nb, amostra, backbone, cabeca, tmp_path / "inteira")
    assert len(historico) == 2
    assert all(np.array_equal(a, b) for a, b in zip(antes, backbone.get_weights())), "o backbone original não muda"
    mudou = {c.name: any(not np.array_equal(a, b) for a, b in zip(c.get_weights(), backbone.get_layer(c.name).get_weights()))
             for c in novo.layers if c.weights}
    assert mudou["conv_head"] and not mudou["conv_stem"] and not mudou["blocks.1.expand_conv"]
    assert not any(m for nome, m in mudou.items() if "bn" in nome), "BatchNormalization em modo de inferência"
    assert not np.array_equal(nova_cabeca.get_weights()[0], cabeca.get_weights()[0])

    gravadas, grava = [], nb.grava_npz

    def morre_na_segunda(*a, **k):
        if gravadas:
            raise Interrompido
        gravadas.append(grava(*a, **k))
    with monkeypatch.context() as m:
        m.setattr(nb, "grava_npz", morre_na_segunda)
        with pytest.raises(Interrompido):
            ajusta(nb, amostra, backbone, cabeca, tmp_path / "cortada")
    retomado, _, historico_retomado, *_ = ajusta(nb, amostra, backbone, cabeca, tmp_path / "cortada")
    assert historico_retomado == historico
    assert all(np.array_equal(a, b) for a, b in zip(novo.get_weights(), retomado.get_weights()))


def test_o_aumento_de_dados_muda_a_foto_e_repete_com_a_mesma_semente(nb, amostra):
    img, label = nb.prepara(next(iter(nb.le_fotos(amostra, (0, 1)))))
    a, b, c = (nb.aumenta(nb.tf.constant([i, 0], "int64"), img, label) for i in (1, 1, 2))
    assert a[0].shape == (224, 224, 3) and a[1].shape == (1,)
    assert np.array_equal(a[0], b[0]) and not np.array_equal(a[0], c[0])


def test_os_backbones_unidos_tambem_descongelam(nb):
    unidos = nb.cria_backbone("EfficientNetLite0+EfficientNetLite1")
    assert not unidos.trainable_weights
    nb.descongela(unidos)
    treinam = {c.name for m in unidos.layers if isinstance(m, nb.keras.Model) for c in m.layers if c.trainable and c.weights}
    assert "conv_head" in treinam and "conv_stem" not in treinam and not any("bn" in nome for nome in treinam)


def test_duas_placas_dividem_os_lotes(tmp_path):
    """MirroredStrategy com duas CPUs lógicas no lugar de duas GPUs; em processo próprio, pois elas se criam no início."""
    programa = tmp_path / "duas.py"
    programa.write_text("import pathlib, sys\nimport tensorflow as tf\n"
                        f"sys.path.insert(0, {str(RAIZ / 'testes')!r})\n"
                        "tf.config.set_logical_device_configuration(tf.config.list_physical_devices('CPU')[0],\n"
                        "    [tf.config.LogicalDeviceConfiguration()] * 2)\n"
                        "import conftest, types\nnb = types.ModuleType('nb')\n"
                        "for fonte in conftest.celulas('definicoes'): exec(compile(fonte, 'nb', 'exec'), nb.__dict__)\n"
                        "amostra = nb.tfds.builder_from_directory(conftest.RAIZ / 'amostra/cats_vs_dogs_amostra/1.0.0')\n"
                        "estrategia = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
                        "assert estrategia.num_replicas_in_sync == 2\n"
                        "import numpy as np\nentrada = nb.keras.Input((224, 224, 3))\nx = entrada\n"
                        "for canais in (8, 16, 32, 64):\n"  # uma rede pequena: com a de verdade são minutos
                        "    x = nb.layers.Conv2D(canais, 3, 3, activation='relu')(x)\n"
                        "    x = nb.layers.BatchNormalization()(x)\n"
                        "backbone = nb.keras.Model(entrada, nb.layers.GlobalAveragePooling2D(name='media')(x))\n"
                        "novo, cabeca, h, *_ = nb.ajusta_fino(amostra, backbone, nb.cria_cabeca(64), np.arange(64),\n"
                        "    np.arange(64, 96), 32, 2, 0, pathlib.Path(sys.argv[1]), 'r', estrategia)\n"
                        "assert len(h) == 2 and all(x['val_log_loss'] > 0 for x in h)\n"
                        "mudou = [not np.array_equal(a, b) for a, b in zip(novo.get_weights(), backbone.get_weights())]\n"
                        "assert any(mudou) and not all(mudou)\nprint('dividiu', h[-1], flush=True)\n"
                        "import os; os._exit(0)\n", "utf-8")  # sair do jeito comum leva dois minutos, todos parados
    processo = subprocess.run([sys.executable, programa, tmp_path / "modelos"], capture_output=True, text=True)
    assert processo.returncode == 0 and "dividiu" in processo.stdout, processo.stderr[-3000:]
